"""Data sets that are downloaded: the files that torchvision names, with their checksums."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgesearch.errors import DataError

__all__ = ["download"]


def download(name: str, folder: Path) -> None:
    """Bring the files of torchvision's data set of this name into `folder`, where torchvision keeps them; none is unpacked.

    What is there is not brought again. A file has its name once it is whole; what came of one before the connection broke is
    kept for the next call. Raises DataError where one does not come.
    """
    from edgesearch.plugins import import_torchvision
    from edgesearch.spaces import FetchFailed

    try:
        for urls, path, md5 in _files(getattr(import_torchvision("datasets"), name), folder):
            _bring(urls, path, md5)
    except (FetchFailed, OSError) as error:
        raise DataError(
            f"{name} cannot be downloaded to {folder} ({error}); see to it that this machine reaches the network, or name a "
            "copy with `root` in [data]"
        ) from error


def _files(dataset: Any, folder: Path) -> Iterator[tuple[list[str], Path, str]]:
    """Of each file where it is published, where it is kept, and its MD5."""
    if hasattr(dataset, "mirrors"):
        for file, md5 in dataset.resources:
            yield [f"{mirror}{file}" for mirror in dataset.mirrors], folder / dataset.__name__ / "raw" / file, md5
    else:
        yield [dataset.url], folder / dataset.filename, dataset.tgz_md5


def _bring(urls: list[str], path: Path, md5: str) -> None:
    from edgesearch.spaces import FetchFailed, fetch, is_whole

    if path.exists() and not is_whole(path, md5=md5):
        os.replace(path, path.with_name(path.name + ".part"))  # torchvision leaves what it began under the file's own name
    failures = []
    for url in urls:
        try:
            fetch(url, path, md5=md5)
            return
        except FetchFailed as error:
            failures.append(error)
    raise failures[0]
