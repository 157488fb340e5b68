from ._compiled import CompiledLayer as CompiledLayer
from ._compiled import CompiledModel as CompiledModel
from ._compiled import CompiledOperation as CompiledOperation
from ._compiled import CompiledTensor as CompiledTensor
from ._compiled import Register as Register
from ._compiled_reader import read_compiled as read_compiled
from ._reader import read_xmodel as read_xmodel
from ._writer import write_xmodel as write_xmodel
