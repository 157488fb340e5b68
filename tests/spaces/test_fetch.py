"""A download that breaks goes on, and only the file that was asked for gets its name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesearch.spaces._fetch import FetchFailed, fetch

from ._server import Server, serve

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(CONTENT) as running:
        yield running


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path) -> None:
    path, notes = tmp_path / "new" / "a.pth", list[str]()
    for _ in range(2):
        fetch(f"{server.url}/a.pth", path, sha256=SHA256, note=notes.append)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pth"]
    assert server.asked == [0]
    assert notes == [f"downloading {server.url}/a.pth to {path.parent}"]


def test_a_connection_that_breaks_half_way_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cuts[:] = [len(CONTENT) // 2, 1000]
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.asked == [0, len(CONTENT) // 2, len(CONTENT) // 2 + 1000]


def test_what_came_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    server.cuts[:] = [5000, 0]
    with pytest.raises(FetchFailed, match="broke after 5,000 of 102,400 bytes; 5,000 bytes are kept, and the same command"):
        fetch(f"{server.url}/a.pth", path, sha256=SHA256)
    assert not path.exists()
    fetch(f"{server.url}/a.pth", path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == 5000


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize("left", [b"\xff" * 5000, CONTENT + b"more", CONTENT[:70]])
def test_what_an_earlier_download_left_never_ends_in_the_file(
    server: Server, tmp_path: Path, resumes: bool, left: bytes
) -> None:
    server.resumes = resumes
    (tmp_path / "a.pth.part").write_bytes(left)
    fetch(f"{server.url}/a.pth", tmp_path / "a.pth", sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_another_file_is_refused_after_one_download(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="is another file than expected: its SHA-256 begins with"):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth", sha256="00000000")
    assert server.asked == [0]
    assert not (tmp_path / "a.pth").exists()


def test_another_file_that_took_all_attempts_to_come_is_refused_and_gets_no_name(server: Server, tmp_path: Path) -> None:
    server.cuts[:] = [20_000] * 4
    with pytest.raises(FetchFailed, match="is another file than expected: its SHA-256 begins with"):
        fetch(f"{server.url}/a.pth", tmp_path / "a.pth", sha256="00000000")
    assert server.asked == [0, 20_000, 40_000, 60_000, 80_000]
    assert not (tmp_path / "a.pth").exists()


def test_no_server_and_no_file_are_a_few_words(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="404 Not Found"):
        fetch(f"{server.url}/missing.pth", tmp_path / "a.pth", sha256=SHA256)
    with pytest.raises(FetchFailed, match="Connection refused"):
        fetch("http://127.0.0.1:9/a.pth", tmp_path / "a.pth", sha256=SHA256)
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchFailed, match="cannot be written"):
        fetch(f"{server.url}/a.pth", tmp_path / "file" / "a.pth", sha256=SHA256)


def test_several_at_once_download_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    calls = [threading.Thread(target=fetch, args=(f"{server.url}/a.pth", path), kwargs={"sha256": SHA256}) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert path.read_bytes() == CONTENT
    assert server.asked == [0]
