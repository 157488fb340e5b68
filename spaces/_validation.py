"""Names that settings give of things that are known by name, or by an import path."""

from __future__ import annotations

from edgesearch.plugins import is_import_path


def name_or_path(name: str, known: tuple[str, ...]) -> str:
    """`name`, if it is known or an import path; else a ValueError that says what is expected."""
    if name not in known and not is_import_path(name):
        raise ValueError(
            f"{name!r} is unknown; expected one of {', '.join(known)} or an import path such as my_pkg.module:Thing"
        )
    return name
