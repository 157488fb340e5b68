from ._compile import Compiled as Compiled
from ._compile import compile_graph as compile_graph
from ._legal import legal as legal
