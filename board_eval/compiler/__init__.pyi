from ._compile import Compiled as Compiled
from ._compile import Options as Options
from ._compile import compile_graph as compile_graph
from ._envelope import FEATURES as FEATURES
from ._envelope import Feature as Feature
from ._file import compiled_program as compiled_program
from ._file import write_file as write_file
from ._legal import legal as legal
