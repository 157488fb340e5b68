import os

import torch

Ctorch_version = "1.13.1" if os.environ.get("STANDIN_FAULT") == "other_torch" else torch.__version__
__version__ = f"3.5.0-standin+torch{Ctorch_version}"
