"""Processes that are forked from one that has imported all, and that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training_jobs import family, name

from edgesearch.search.processes._fork_server import ForkServer, NoServer
from edgesearch.search.processes._lines import Died, LineProcess

SERVICE = """
import os, sys, signal

def echo(question):
    if "die" in question:
        os.kill(os.getpid(), question["die"])
    if "leave" in question:
        os._exit(question["leave"])
    if "wait" in question:
        signal.pause()
    return {
        "pid": os.getpid(), "parent": os.getppid(), "said": question, "imported": "torch" in sys.modules,
        "folder": os.getcwd(), "variable": os.environ.get("SOME_VARIABLE"), "threads": os.environ["OMP_NUM_THREADS"],
        "tunables": os.environ.get("GLIBC_TUNABLES"),
    }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "a_service.py").write_text(SERVICE)
    before = {child.pid for child in family()}
    with pytest.MonkeyPatch.context() as patch, closing(ForkServer(f"edgesearch-{uuid.uuid4().hex}")) as server:
        patch.setenv("PYTHONPATH", str(folder))
        yield server
    assert {child.pid for child in family()} <= before


def process_of(server: ForkServer) -> LineProcess:
    return LineProcess("a_service:echo", server)


def told(process: LineProcess, **question: object) -> dict[str, Any]:
    assert process.ask(question)
    answer = process.answer(60)
    assert answer is not None
    return answer


def test_only_the_server_itself_is_told_how_glibc_keeps_blocks(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        answer = told(process)
        begun_with = Path(f"/proc/{answer['parent']}/environ").read_text().split("\0")
    assert any(each.startswith("GLIBC_TUNABLES=glibc.malloc.tcache_count=0") for each in begun_with)
    assert answer["tunables"] == os.environ.get("GLIBC_TUNABLES")


def test_processes_have_imports_for_nothing_and_live_until_they_are_closed(server: ForkServer) -> None:
    one, other = process_of(server), process_of(server)
    with closing(one), closing(other):
        assert one.ask({"what": 1})
        assert other.ask({"what": 2})
        first, second = one.answer(60), other.answer(60)
        assert first is not None
        assert second is not None
        assert first["said"] == {"what": 1}
        assert second["said"] == {"what": 2}
        assert first["imported"]
        assert first["parent"] == second["parent"] != os.getpid()
        assert len({first["pid"], second["pid"], first["parent"]}) == 3
        parent = psutil.Process(first["parent"])
        assert parent.num_threads() == 1  # else what it forks may lack a lock's owner
        assert (name(parent), name(psutil.Process(first["pid"]))) == ("fork_server", "echo")
        assert told(one, what=3)["pid"] == first["pid"]
    assert not psutil.pid_exists(first["pid"])
    assert parent.is_running()


def test_a_process_has_the_environment_and_the_folder_of_who_starts_it(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    monkeypatch.setenv("SOME_VARIABLE", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.chdir(tmp_path)
    with closing(process_of(server)) as process:
        answer = told(process)
    assert (answer["variable"], answer["folder"], answer["threads"]) == ("7", str(tmp_path), "1")


@pytest.mark.parametrize(
    ("question", "how"),
    [({"die": signal.SIGKILL}, "signal SIGKILL"), ({"die": signal.SIGRTMIN + 3}, "signal 37"), ({"leave": 3}, "exit code 3")],
)
def test_a_process_that_dies_is_told_and_started_again(server: ForkServer, question: dict[str, int], how: str) -> None:
    with closing(process_of(server)) as process:
        assert process.ask(question)
        with pytest.raises(Died) as death:
            process.answer(60)
        assert str(death.value) == f"died ({how})"
        assert death.value.alone
        assert not process.runs
        assert told(process, what=1)["said"] == {"what": 1}


def test_a_process_that_dies_between_two_questions_is_started_again(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        first = psutil.Process(told(process)["pid"])
        first.kill()
        assert psutil.wait_procs([first], timeout=10)[1] == []
        time.sleep(0.1)
        assert told(process)["pid"] != first.pid


def test_a_process_that_is_killed_in_the_middle_says_so(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        assert process.ask({"wait": True})
        assert process.answer(2.0) is None
        process.kill()
        with pytest.raises(Died, match="signal SIGKILL"):
            process.answer(60)


def test_a_process_that_is_frozen_is_killed(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        frozen = psutil.Process(told(process)["pid"])
        frozen.suspend()
        process.end()
        assert not frozen.is_running()


def test_its_processes_die_with_a_server_that_is_killed_and_both_are_started_again(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        before = told(process)
        child, parent = psutil.Process(before["pid"]), psutil.Process(before["parent"])
        process.ask({"wait": True})
        parent.kill()
        with pytest.raises(Died) as death:
            process.answer(60)
        assert not death.value.alone
        assert psutil.wait_procs([child], timeout=10)[1] == []
        assert told(process)["parent"] != parent.pid


USER = """
import sys
from edgesearch.search.processes._fork_server import ForkServer
from edgesearch.search.processes._lines import LineProcess
process = LineProcess("a_service:echo", ForkServer(sys.argv[1], shared=True))
process.ask({})
answer = process.answer(60)
print(answer["pid"], answer["parent"], flush=True)
sys.stdin.readline()
process.ask({})
print(process.answer(60)["pid"], flush=True)
sys.stdin.readline()
"""


def test_one_server_serves_all_who_know_its_name_until_the_last_is_gone(server: ForkServer) -> None:
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USER, f"{server.name}-shared"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    found = []
    for user in users:
        assert user.stdout is not None
        found.append([int(part) for part in user.stdout.readline().split()])
    assert len({parent for _, parent in found}) == 1
    children, parent = [psutil.Process(pid) for pid, _ in found], psutil.Process(found[0][1])
    for user, child in zip(users[:2], children[:2], strict=True):  # whichever started it
        user.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []
    last = users[2]
    assert last.stdin is not None
    assert last.stdout is not None
    last.stdin.write("\n")
    last.stdin.flush()
    assert int(last.stdout.readline()) == children[2].pid
    for user in users:
        user.kill()
        user.communicate()
    assert psutil.wait_procs([children[2], parent], timeout=10)[1] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_are_neither_served_nor_believed(server: ForkServer) -> None:
    server.start()
    stranger = f"""
import os, socket
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect("\\0{server.name}")
try:
    connection.sendall(b'{{"service": "os:getcwd", "environment": {{}}, "folder": "/"}}\\n')
    print(connection.recv(1000))
except ConnectionError:
    print(b"")
"""
    run = subprocess.run([sys.executable, "-c", stranger], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("b''", "")
    trap = f"{server.name}-trap"
    listening = f"""
import os, socket, sys
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0{trap}")
listener.listen()
print(flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", listening], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(NoServer, match="another user's"):
            ForkServer(trap, shared=True).connect("a_service:echo")
        other.kill()


def test_it_listens_on_no_network_and_on_no_file(server: ForkServer) -> None:
    with closing(process_of(server)) as process:
        parent = psutil.Process(told(process)["parent"])
        sockets = parent.net_connections("all")
    assert {connection.family for connection in sockets} == {socket.AF_UNIX}
    listeners = [connection.laddr for connection in sockets if server.name in str(connection.laddr)]
    assert listeners
    assert not [name for name in listeners if Path(str(name)).exists()]
