from ._measured import accuracy_of as accuracy_of
from ._quantized import load_graph as load_graph
