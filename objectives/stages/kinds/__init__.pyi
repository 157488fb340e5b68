from ._compiled import compiled_content as compiled_content
from ._compiled import golden_images as golden_images
from ._compiled import vitis_file as vitis_file
from ._measured import accuracy_of as accuracy_of
from ._quantized import load_graph as load_graph
from ._rung import RUNG_FACTOR as RUNG_FACTOR
from ._rung import rungs_of as rungs_of
from ._rung import trained_student as trained_student
