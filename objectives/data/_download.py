"""Data sets that torchvision downloads."""

from __future__ import annotations

from pathlib import Path

from edgesearch.errors import DataError

__all__ = ["cache_folder", "download"]


def cache_folder(name: str) -> Path:
    """Where a data set that was asked for without a root is downloaded to."""
    return Path.home() / ".cache" / "edgesearch" / name


def download(name: str, folder: Path) -> None:
    """Let torchvision download its data set of this name into `folder`; raises DataError when that fails."""
    from edgesearch.spaces import import_torchvision

    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(import_torchvision("datasets"), name)(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "reason", error)  # urllib's, without its own words around it
        raise DataError(
            f"{name} cannot be downloaded to {folder} ({reason}); see to it that this machine reaches the network, or name a "
            "copy with `root` in [data]"
        ) from error
