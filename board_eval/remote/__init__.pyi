from ._boards import Boards as Boards
from ._boards import boards_path as boards_path
from ._boards import load_boards as load_boards
from ._settings import NAME as NAME
from ._settings import BoardSettings as BoardSettings
from ._settings import RunnerChoice as RunnerChoice
