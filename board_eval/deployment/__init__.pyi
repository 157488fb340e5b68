from ._calibrate_file import calibrate_file as calibrate_file
from ._calibrate_file import load_measured as load_measured
from ._compare import CodeCost as CodeCost
from ._compare import CompilerComparison as CompilerComparison
from ._compare import compare_compilers as compare_compilers
from ._compile import Miscompiled as Miscompiled
from ._compile import compile_xmodel as compile_xmodel
from ._compiled_xmodel import CompiledXmodel as CompiledXmodel
