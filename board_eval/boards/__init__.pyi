from ._boards import Board as Board
from ._boards import Measurement as Measurement
from ._boards import SimulatedBoard as SimulatedBoard
from ._preflight import Finding as Finding
from ._preflight import leaked_images as leaked_images
from ._preflight import preflight as preflight
