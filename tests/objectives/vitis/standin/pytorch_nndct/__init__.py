"""Stands in for Vitis AI's pytorch_nndct 3.5, with its calls, on this project's own quantizer and pruner.

STANDIN_FAULT in the environment makes it fail in one of the ways that were seen, or that may be.
"""

import os
import sys

if "xir" not in sys.modules:
    raise ImportError("xir has to be imported before pytorch_nndct")
if any(option.startswith("-") for option in sys.argv[1:]):
    raise SystemExit("pytorch_nndct read options of its own from the command line")

FAULT = os.environ.get("STANDIN_FAULT", "")
if FAULT == "import":
    raise ImportError("libnndct_kernels.so: undefined symbol")

from .apis import QatProcessor, torch_quantizer  # noqa: E402

if FAULT != "no_pruner":
    from .pruning import get_pruning_runner

__all__ = ["QatProcessor", "get_pruning_runner", "torch_quantizer"]
