"""Things given by name or by import path: a registry for each seam, and the code of a user's own that is found beside a study.

An import path is `package.module:Thing`. It is looked for in the study's folder first, then where Python looks.
"""

from __future__ import annotations

from edgesearch.plugins._calling import calling
from edgesearch.plugins._loading import is_import_path, load, source_fingerprint
from edgesearch.plugins._registry import Registry
from edgesearch.plugins._torchvision import import_torchvision, with_torchvision

__all__ = ["Registry", "calling", "import_torchvision", "is_import_path", "load", "source_fingerprint", "with_torchvision"]
