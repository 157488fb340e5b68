from ._files import export_trial as export_trial
from ._network import float_network as float_network
from ._network import load_network as load_network
