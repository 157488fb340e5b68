from ._artifacts import stored_artifact as stored_artifact
from ._files import MANIFEST as MANIFEST
from ._files import export_trial as export_trial
from ._golden import read_golden_input as read_golden_input
from ._network import float_network as float_network
from ._network import load_network as load_network
