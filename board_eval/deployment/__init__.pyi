from ._compile import Miscompiled as Miscompiled
from ._compile import compile_xmodel as compile_xmodel
from ._compiled_xmodel import CompiledXmodel as CompiledXmodel
