from ._programs import CPP_NAME as CPP_NAME
from ._programs import PYTHON_NAME as PYTHON_NAME
from ._programs import RUNNER_VERSION as RUNNER_VERSION
from ._programs import build_command as build_command
from ._programs import runner_cpp_source as runner_cpp_source
from ._programs import runner_source as runner_source
