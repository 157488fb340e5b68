"""What an exported folder of `cnn_tiny` holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMPILED = "compiled/cnn_tiny.xmodel"


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content
