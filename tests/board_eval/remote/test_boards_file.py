"""The boards file: what it takes, and one sentence for everything that it does not."""

from __future__ import annotations

import math
import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.board_eval.remote import add_board, boards_path, load_boards
from edgesearch.board_eval.remote._boards import parse_boards
from edgesearch.errors import BoardError


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    path.chmod(0o600)
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "boards.toml"
    path.write_text(text)
    return path


LAB = '[board.lab]\nhost = "192.168.1.20"\nkey = "key"\n'


def test_paths_start_at_the_file_and_the_rest_has_defaults(tmp_path: Path, key: Path) -> None:
    board = load_boards(write(tmp_path, LAB)).board("lab")
    assert (board.name, board.host, board.port, board.user) == ("lab", "192.168.1.20", 22, "root")
    assert board.key == key
    assert board.known_hosts == Path.home() / ".ssh" / "known_hosts"
    assert (board.target, board.runner, board.folder) == ("zcu104", "auto", "/tmp")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("port = true", r"\[board.lab\] `port` is true, expected a number$"),
        ("port = 0", r"\[board.lab\] port: .*\(given: 0\)"),
        ('port = "x"', r"\[board.lab\] port: .*\(given: 'x'\)"),
        ('user = "a b"', r"\[board.lab\] user: expected the name of a user .*\(given: 'a b'\)"),
        ('user = "-oProxyCommand=x"', "user: expected"),
        ('colour = "red"', r"\[board.lab\] colour: unknown key \(given: 'red'\); known are host, port"),
        ('name = "other"', r"\[board.lab\] name: unknown key"),
        ('folder = "tmp"', "folder: expected the absolute path"),
        ('folder = "/tmp/$(reboot)"', "folder: expected the absolute path"),
        ('folder = "/tmp/../etc"', "folder: expected the absolute path"),
        ('python = "python3 -c x"', "python: expected a program"),
        ('python = "-c"', "python: expected a program"),
        ('runner = "rust"', "runner: .*given: 'rust'"),
        ("seconds = nan", "seconds: "),
        ("seconds = 5\ntimeout_s = 22", r"\[board.lab\] seconds: .*at least 22.25, or fewer seconds \(given: 5\)"),
        ("timeout_s = 9", r"\[board.lab\] seconds: .*timeout_s = 9 does not give it; give timeout_s at least 9.5"),
        ('known_hosts = "~nosuchuser/hosts"', r"\[board.lab\] known_hosts: .*there is no home folder ~nosuchuser"),
        ('target = "~nosuchuser/board.json"', r"\[board.lab\] target: .*there is no home folder ~nosuchuser"),
        ('known_hosts = "a\\u0000b"', r"\[board.lab\] known_hosts: 'a\\x00b' is no path"),
        ('target = "a\\u0000b.json"', r"\[board.lab\] target: .* is no path"),
        ("repeats = 4", "repeats: "),
        ('power_cycle = "curl"', "power_cycle: "),
        ('power_cycle = ["", "x"]', "power_cycle: expected a program"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_table_its_value_and_what_to_do(
    tmp_path: Path, key: Path, line: str, expected: str
) -> None:
    path = write(tmp_path, LAB + line)
    with pytest.raises(BoardError, match=expected) as caught:
        load_boards(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["password", "Passwd", "passphrase", "key_secret", "auth_token"])
def test_a_password_is_refused_and_not_shown(tmp_path: Path, key: Path, name: str) -> None:
    with pytest.raises(BoardError, match=rf"{name}: no password is kept .* ssh-keygen") as caught:
        load_boards(write(tmp_path, f'{LAB}{name} = "hunter2"'))
    assert "hunter2" not in str(caught.value)


def test_a_key_in_the_file_itself_is_refused_and_not_shown(tmp_path: Path) -> None:
    text = '[board.lab]\nhost = "a"\nkey = """-----BEGIN OPENSSH PRIVATE KEY-----\nabcd"""\n'
    with pytest.raises(BoardError, match="it holds a key itself") as caught:
        load_boards(write(tmp_path, text))
    assert "abcd" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[board.lab]\nkey='key'", "host: is missing"),
        ("[board.lab]\nhost='a'", "key: is missing"),
        ("[board.'../x']\nhost='a'", "is no name of a board"),
        ("[board.'-x']\nhost='a'", "is no name of a board"),
        ("[board.zcu104]\nhost='a'\nkey='key'", "name of a simulated board"),
        ("[board.'x.json']\nhost='a'\nkey='key'", "name of a simulated board"),
        ("board = 3", r"expected tables \[board.NAME\]"),
        ("[boards.lab]", "unknown key 'boards'"),
        ("[board.lab", "is not valid TOML"),
        (LAB + "[pool.all]\nboards = ['lab', 'other']", r"there is no \[board.other\]; known are lab"),
        (LAB + "[pool.all]\nboards = []", "expected a list of names"),
        (LAB + "[pool.all]\nboards = ['lab', 'lab']", "named twice"),
        (LAB + "[pool.lab]\nboards = ['lab']", "a board has this name too"),
        (LAB + "[pool.all]\nboards = ['lab']\nsize = 2", "size: unknown key"),
        (LAB + "[board.b]\nhost='b'\nkey='key'\ntarget='kv260'\n[pool.all]\nboards = ['lab', 'b']", "one target"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, key: Path, text: str, expected: str) -> None:
    with pytest.raises(BoardError, match=expected):
        load_boards(write(tmp_path, text))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.168..20", "expected 1 to 63 characters between dots"),
        (f"{'a' * 64}.lan", "expected 1 to 63 characters between dots"),
        ("10.0.0.1:22", "expected an address, as fe80::1%eth0; the port has a key of its own"),
    ],
)
def test_a_host_that_cannot_be_looked_up_is_refused(tmp_path: Path, key: Path, host: str, expected: str) -> None:
    with pytest.raises(BoardError, match=expected):
        load_boards(write(tmp_path, LAB.replace("192.168.1.20", host)))
    for good in (f"{'a' * 63}.lan", "fe80::1%eth0", "board"):
        assert load_boards(write(tmp_path, LAB.replace("192.168.1.20", good))).boards["lab"].host == good


def test_a_home_that_nobody_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BoardError, match=r"\[board.lab\] key: '~nosuchuser/key' is no path; there is no home folder ~nosuchuser"
    ):
        load_boards(write(tmp_path, LAB.replace('"key"', '"~nosuchuser/key"')))
    monkeypatch.setenv("EDGESEARCH_BOARDS", "~nosuchuser/boards.toml")
    with pytest.raises(BoardError, match=r"boards file: '~nosuchuser/boards.toml' is no path"):
        load_boards()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_names_boards_or_is_refused(content: bytes) -> None:
    try:
        parse_boards(content, Path("boards.toml"))
    except BoardError as error:
        assert str(error)  # noqa: PT017 - either outcome is right


def test_a_key_that_others_may_read_or_that_is_not_there_is_told_of_its_board_alone(tmp_path: Path, key: Path) -> None:
    boards = load_boards(write(tmp_path, LAB + "[board.b]\nhost='b'\nkey='nowhere'\n"))
    assert boards.board("lab").key == key
    with pytest.raises(BoardError, match=r"boards.toml: board 'b', key: .*nowhere' cannot be read .*ssh-keygen"):
        boards.board("b")
    key.chmod(0o640)
    with pytest.raises(BoardError, match=r"others than its owner may use .*key' \(mode 640\); run chmod 600"):
        boards.board("lab")
    key.unlink()
    os.mkfifo(key, 0o600)  # nobody waits for somebody to write into it
    with pytest.raises(BoardError, match="is no file; give the path of a private key"):
        boards.board("lab")
    key.unlink()
    key.mkdir(mode=0o700)
    with pytest.raises(BoardError, match="key: "):
        boards.board("lab")


def test_a_pool_is_its_boards(tmp_path: Path, key: Path) -> None:
    boards = load_boards(write(tmp_path, LAB + "[board.b]\nhost='b'\nkey='key'\n[pool.all]\nboards = ['b', 'lab']\n"))
    assert [board.name for board in boards.pool("all")] == ["b", "lab"]
    with pytest.raises(BoardError, match=r"unknown pool 'some': .* names all"):
        boards.pool("some")


def test_no_file_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(tmp_path / "none.toml"))
    assert boards_path() == tmp_path / "none.toml"
    with pytest.raises(BoardError, match=r"there is no boards file .*none.toml; `edgesearch board add`"):
        load_boards().board("lab")


def test_a_board_is_added_behind_what_is_there(tmp_path: Path, key: Path) -> None:
    path = write(tmp_path, "# the lab's\n" + LAB.rstrip())
    given = {"host": "10.0.0.2", "key": str(key), "port": 2222, "power_cycle": ['a "b" \\ \x7fü', "c"]}
    path.chmod(before := 0o640)
    added = add_board("shelf.2", given, path)
    assert path.read_text().startswith("# the lab's\n" + LAB.rstrip() + "\n\n[board.")
    assert load_boards(path).board("shelf.2") == added
    assert (path.stat().st_mode & 0o777, add_board("first", given, tmp_path / "new.toml").name) == (before, "first")
    assert (tmp_path / "new.toml").stat().st_mode & 0o777 == 0o600
    assert added.power_cycle == tuple(given["power_cycle"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("lab", {"host": "a"}, "has a board 'lab' already"),
        ("b", {"host": "a\nuser = 'x'"}, "host: expected"),
        ("b", {"host": "a", "password": "x"}, "no password"),
        ("x]\n[board.y", {"host": "a"}, "is no name of a board"),
        ("b", {"host": "a", "key": "nowhere"}, "cannot be read"),
        ("b", {"host": "a\udcff"}, r"is UTF-8, which cannot say host = .a.*dcff"),
        ("b", {"host": "a", "timeout_s": math.nan}, "timeout_s: "),
        ("b", {"host": "a", "seconds": math.inf}, "seconds: "),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    tmp_path: Path, key: Path, name: str, keys: dict[str, object], expected: str
) -> None:
    path = write(tmp_path, LAB)
    with pytest.raises(BoardError, match=expected):
        add_board(name, {"key": str(key), **keys}, path)
    assert path.read_text() == LAB


def test_boards_added_at_once_are_all_there(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "new" / "boards.toml"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: add_board(f"b{n}", {"host": "a", "key": str(key)}, path), range(8)))
    assert set(tomllib.loads(path.read_text())["board"]) == {f"b{n}" for n in range(8)}
