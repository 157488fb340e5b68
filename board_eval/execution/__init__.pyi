from ._execute import Executor as Executor
from ._execute import execute as execute
from ._execute import execute_all as execute_all
from ._execute import run_float as run_float
