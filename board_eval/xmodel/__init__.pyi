from ._reader import read_xmodel as read_xmodel
from ._writer import write_xmodel as write_xmodel
