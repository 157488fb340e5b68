from ._board import BoardContract as BoardContract
from ._target import TargetContract as TargetContract
