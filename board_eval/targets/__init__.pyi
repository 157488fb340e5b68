from ._targets import BoardProfile as BoardProfile
from ._targets import Dpu as Dpu
from ._targets import HostOverhead as HostOverhead
from ._targets import TimingConstants as TimingConstants
from ._targets import load_dpu as load_dpu
from ._targets import load_profile as load_profile
