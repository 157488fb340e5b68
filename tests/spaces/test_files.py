"""Files that appear whole or not at all, paths and TOML as people write them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgesearch.errors import SpaceError
from edgesearch.files import expanded, parse_json, parse_toml, probing, write_atomically


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    write_atomically(tmp_path / "x", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"new"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x"]


def test_who_may_read_a_file_stays_as_it_was(tmp_path: Path) -> None:
    for mode in (0o600, 0o640, 0o664):
        (tmp_path / "x").write_bytes(b"old")
        (tmp_path / "x").chmod(mode)
        write_atomically(tmp_path / "x", b"new", mode=0o666)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    write_atomically(tmp_path / "usual", b"new")
    write_atomically(tmp_path / "private", b"new", mode=0o600)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "private")] == [0o644, 0o600]


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(tmp_path / "pipe", b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
def test_toml_is_read_with_and_without_a_byte_order_mark(mark: bytes) -> None:
    assert parse_toml(mark + 'name = "Löwe"\n'.encode()) == {"name": "Löwe"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a = 1\nname = "Löwe"\n'.encode("latin-1"), "line 2 is not UTF-8; save the file in that encoding"),
        ("name = 1\n".encode("utf-16"), "line 1 is not UTF-8"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"a = [1", "Unclosed array"),
    ],
)
def test_what_is_no_toml_is_told_in_words(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_toml(content)


def test_json_that_is_nested_too_deeply_is_told_in_words() -> None:
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_a_home_folder_is_found_or_its_absence_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x", "root", SpaceError) == tmp_path / "x"
    assert expanded("x/~", "root", SpaceError) == Path("x/~")
    with pytest.raises(SpaceError, match=r"^root: '~nosuchuser/x' is no path; there is no home folder ~nosuchuser$"):
        expanded("~nosuchuser/x", "root", SpaceError)
    with pytest.raises(SpaceError, match="NUL"):
        expanded("a\0b", "root", SpaceError)
    assert expanded("x/" + "ü" * 127, "root", SpaceError).name == "ü" * 127
    with pytest.raises(SpaceError, match=r"^root: 'x/ü+' is no path; 'ü+' is longer than 255 bytes$"):
        expanded("x/" + "ü" * 128, "root", SpaceError)


def test_what_the_system_forbids_to_look_at_is_told_with_its_path(tmp_path: Path) -> None:
    far = tmp_path / ("a" * 200 + "/") / Path(*["b" * 200] * 30)
    said = r"^pictures: '.*b' is too long a name for its file system; give a shorter one$"
    with pytest.raises(SpaceError, match=said), probing("pictures", SpaceError):
        far.is_file()
    with pytest.raises(FileNotFoundError), probing("pictures", SpaceError):
        (tmp_path / "absent").read_bytes()
