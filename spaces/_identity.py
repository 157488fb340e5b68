"""What settings are, for the purpose of a key: what they say, not how they say it.

A key is the hash of the identity of everything that decides a result. The identity of settings leaves out what is at its
default, so that a setting that is added later changes no key; a default that changes is a change of the stage's version. A file
counts by its content: where its checksum is known its path is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def identity(settings: BaseModel) -> dict[str, Any]:
    """The settings as JSON values, without defaults and without paths of files whose checksum is given."""
    content: dict[str, Any] = without_paths(settings.model_dump(mode="json", exclude_defaults=True))
    return content


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of JSON values with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def without_paths(content: Any) -> Any:
    """JSON values without the paths of files whose checksum stands beside them: the file counts, not where it lies."""
    if not isinstance(content, Mapping):
        return content
    kept = {name: without_paths(value) for name, value in content.items()}
    if kept.get("weights_sha256"):
        kept.pop("weights", None)
    return kept
