"""A data set's download that breaks goes on where it was, and nothing that is not whole is read as the data set."""

from __future__ import annotations

import hashlib
import http.client
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from _archives import write_mnist

from edgesearch import plugins
from edgesearch.errors import DataError, EdgesearchError
from edgesearch.objectives.data import DataSettings
from edgesearch.objectives.data._cifar10 import read_cifar10
from edgesearch.objectives.data._download import download
from edgesearch.objectives.data._mnist import read_mnist
from edgesearch.plugins import import_torchvision
from edgesearch.spaces import _fetch

from ...spaces._server import Server, serve

CIFAR10 = DataSettings(name="cifar10", download=True)
MNIST = DataSettings(name="mnist", download=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(b"") as running:
        yield running


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar10(server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """torchvision's CIFAR-10, of three images a batch, from the server; its archive."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    dice = np.random.default_rng(0)
    contents: dict[str, bytes] = {}
    for name in names:
        batch: dict[str, Any] = {"data": dice.integers(0, 256, (3, 3072), dtype=np.uint8), "labels": [0, 1, 2]}
        contents[name] = pickle.dumps({"label_names": ["a"] * 10} if name == "batches.meta" else batch)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    server.content = archive.getvalue()
    dataset = import_torchvision("datasets").CIFAR10
    lists = [[name, md5(contents[name])] for name in names]
    for name, value in {
        "url": f"{server.url}/{dataset.filename}",
        "tgz_md5": md5(server.content),
        "train_list": lists[:5],
        "test_list": lists[5:6],
        "meta": dataset.meta | {"md5": lists[6][1]},
    }.items():
        monkeypatch.setattr(dataset, name, value)
    return server.content


@pytest.fixture
def mnist(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """torchvision's MNIST, of few images, from the server: its arrays."""
    arrays = write_mnist(tmp_path / "published", ".gz")
    dataset = import_torchvision("datasets").MNIST
    server.files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "published").iterdir()}
    monkeypatch.setattr(dataset, "mirrors", [f"{server.url}/missing/", f"{server.url}/"])
    resources = [(name, md5(server.files[f"/{name}"])) for name, _ in dataset.resources]
    monkeypatch.setattr(dataset, "resources", resources)
    return arrays


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_download_that_broke_goes_on_where_it_was(server: Server, cifar10: bytes, tmp_path: Path) -> None:
    half, settings = len(cifar10) // 2, CIFAR10.model_copy(update={"root": tmp_path / "data"})
    server.cuts[:] = [half, 0]
    with pytest.raises(
        DataError, match=rf"CIFAR10 cannot be downloaded to .*broke after {half:,} of .*the same command"
    ) as caught:
        read_cifar10(settings, None)
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "data") == {"cifar-10-python.tar.gz.part"}
    raw = read_cifar10(settings, None)
    assert server.asked == [0, half, half]
    assert len(raw.train) == 15
    asked = len(server.asked)
    read_cifar10(settings, None)
    (tmp_path / "data" / "cifar-10-python.tar.gz").unlink()
    read_cifar10(settings, None)  # what is unpacked needs no archive
    assert len(server.asked) == asked


def test_what_torchvision_left_half_way_is_gone_on_with(server: Server, cifar10: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar10[:100])
    assert len(read_cifar10(CIFAR10.model_copy(update={"root": tmp_path}), None).train) == 15
    assert server.asked == [100]


def test_files_that_were_half_unpacked_are_unpacked_again(server: Server, cifar10: bytes, tmp_path: Path) -> None:
    settings = CIFAR10.model_copy(update={"root": tmp_path})
    whole = read_cifar10(settings, None)
    broken = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    broken.write_bytes(broken.read_bytes()[:50])
    assert np.array_equal(read_cifar10(settings, None).train.images, whole.train.images)
    assert len(server.asked) == 1


def test_of_several_files_those_that_lack_are_brought(server: Server, mnist: dict[str, np.ndarray], tmp_path: Path) -> None:
    settings, place = MNIST.model_copy(update={"root": tmp_path / "data"}), tmp_path / "data" / "MNIST" / "raw"
    last = len(server.files["/t10k-labels-idx1-ubyte.gz"])
    server.cuts[:] = [10**9, 10**9, 10**9, 5, 0]
    with pytest.raises(DataError, match="MNIST cannot be downloaded"):
        read_mnist(settings, None)
    assert len(names(place)) == 4
    server.asked.clear()
    raw = read_mnist(settings, None)
    assert np.array_equal(raw.train.images[..., 0], mnist["train-images-idx3"])
    assert raw.test is not None
    assert np.array_equal(raw.test.labels, mnist["t10k-labels-idx1"])
    assert set(server.asked) == {5}
    assert last > 5
    assert not [name for name in names(place) if name.endswith(".part")]


def test_a_damaged_file_is_brought_anew_where_downloads_are_asked_for(
    server: Server, mnist: dict[str, np.ndarray], tmp_path: Path
) -> None:
    settings, place = MNIST.model_copy(update={"root": tmp_path / "data"}), tmp_path / "data" / "MNIST" / "raw"
    read_mnist(settings, None)
    damaged = place / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-12])
    raw = read_mnist(settings, None)
    assert raw.test is not None
    assert np.array_equal(raw.test.labels, mnist["t10k-labels-idx1"])
    damaged.write_bytes(damaged.read_bytes()[:-12])
    with pytest.raises(DataError, match="expected an IDX file"):
        read_mnist(settings.model_copy(update={"download": False}), None)


@pytest.mark.parametrize("failure", [http.client.IncompleteRead(b"abc"), http.client.BadStatusLine("?"), TimeoutError("slow")])
def test_any_failure_of_the_network_is_one_sentence_of_the_program(
    failure: Exception, cifar10: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise failure

    monkeypatch.setattr(_fetch.urllib.request, "urlopen", fail)
    with pytest.raises(EdgesearchError, match="name a copy with `root`") as caught:
        read_cifar10(CIFAR10.model_copy(update={"root": tmp_path / "data"}), None)
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)


def test_an_address_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = SimpleNamespace(url="http://127.0.0.1:9/a.tar.gz", filename="a.tar.gz", tgz_md5="0" * 32)
    monkeypatch.setattr(plugins, "import_torchvision", lambda part: SimpleNamespace(CIFAR10=gone))
    with pytest.raises(
        DataError, match=r"CIFAR10 cannot be downloaded to .* \(http://127.0.0.1:9/a.tar.gz: Connection refused\)"
    ):
        download("CIFAR10", tmp_path)


def test_another_file_than_the_published_one_is_not_kept(server: Server, cifar10: bytes, tmp_path: Path) -> None:
    server.content = cifar10 + b"more"
    with pytest.raises(DataError, match="another file than expected: its MD5 begins with"):
        read_cifar10(CIFAR10.model_copy(update={"root": tmp_path / "data"}), None)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.stat().st_size]
