from ._engine import Container as Container
from ._engine import find_container as find_container
from ._native import Native as Native
from ._python import find_python as find_python
from ._python import python_versions as python_versions
from ._python import run_python_job as run_python_job
from ._settings import VitisSettings as VitisSettings
