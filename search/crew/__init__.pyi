from ._allocation import BoardRules as BoardRules
from ._crew import BoardCrew as BoardCrew
from ._look import look_at as look_at
