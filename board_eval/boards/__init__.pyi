from ._board import Board as Board
from ._measurement import Measurement as Measurement
from ._preflight import Finding as Finding
from ._preflight import duplicate_images as duplicate_images
from ._preflight import preflight as preflight
from ._registry import BOARDS as BOARDS
from ._registry import find_board as find_board
from ._simulated import SimulatedBoard as SimulatedBoard
