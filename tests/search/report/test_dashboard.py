from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import optuna
import pytest
from _chromium import render
from _studies import make_study, make_trial

from edgesearch.errors import StudyError
from edgesearch.search.report._dashboard import open_dashboard, study_note
from edgesearch.search.study._record import read_study
from edgesearch.search.study._storage import use_write_ahead_log

LIMITS = {"min_accuracy": 0.8, "min_fps": 600.0}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "studies.db"
    make_study(40, constraints=LIMITS, storage=f"sqlite:///{path}")
    return path


@pytest.fixture
def url(template: Path, tmp_path: Path) -> str:
    url = f"sqlite:///{shutil.copy(template, tmp_path)}"
    use_write_ahead_log(url)
    return url


@pytest.fixture
def port(url: str) -> Iterator[int]:
    with open_dashboard(url, "demo", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def _detail(port: int) -> Any:
    (study,) = _get(port, "/api/studies")["study_summaries"]
    return _get(port, f"/api/studies/{study['study_id']}")


def test_the_dashboard_shows_trials_constraints_and_a_note(port: int, url: str) -> None:
    detail = _detail(port)
    stored = optuna.load_study(study_name="demo", storage=url).get_trials()
    assert detail["name"] == "demo"
    assert detail["objective_names"] == ["accuracy", "fps"]
    assert [t["number"] for t in detail["trials"]] == [t.number for t in stored]
    complete = [(shown, t) for shown, t in zip(detail["trials"], stored, strict=True) if shown["state"] == "Complete"]
    assert complete
    for shown, trial in complete:
        assert shown["values"] == trial.values
        assert shown["constraints"] == [trial.constraints["min_accuracy"], trial.constraints["min_fps"]]
    assert "constraint `min_fps` = 600" in detail["note"]["body"]


_WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("DELETE", "/api/studies/1", {}),
    ("POST", "/api/studies", {"study_name": "new", "directions": ["maximize"]}),
    ("POST", "/api/studies/1/rename", {"study_name": "new"}),
    ("PUT", "/api/studies/1/note", {"version": 2, "body": "mine"}),
    ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"accuracy": 1.0}}),
    ("POST", "/api/trials/41/tell", {"state": "Fail"}),
]


def test_nothing_can_be_written(port: int) -> None:
    before = _detail(port)
    for method, path, body in _WRITES:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        with caught.value as answer:
            assert answer.code == 403
            assert "read-only" in json.load(answer)["reason"]
    assert _detail(port) == before


def test_requests_to_another_name_get_nothing(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/studies", headers={"Host": f"evil.example:{port}"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"demo" not in answer.read()
    connection.close()


def test_a_writer_beside_it_is_not_disturbed_and_its_trials_appear(url: str, port: int) -> None:
    import numpy as np

    study = optuna.load_study(study_name="demo", storage=url)
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                _detail(port)
            except BaseException as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng, stored = np.random.default_rng(5), set()
    for i in range(25):
        study.add_trial(make_trial(rng, 41 + i, ("accuracy", "fps"), dict(LIMITS), stored))
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    deadline = time.monotonic() + 15  # the dashboard keeps what it read for two seconds
    while len(_detail(port)["trials"]) < 66 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(_detail(port)["trials"]) == 66


def test_a_port_that_is_taken_is_one_sentence(url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StudyError, match=f"port {port} cannot be used .*another --port"):
            open_dashboard(url, "demo", port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "example.org", "::"])
def test_other_hosts_are_refused(url: str, host: str) -> None:
    with pytest.raises(StudyError, match="this machine only"):
        open_dashboard(url, "demo", host=host, port=0)


def test_an_unknown_study_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match="no study 'none'"):
        open_dashboard(url, "none", port=0)


def test_the_note_names_the_nearest_misses_when_nothing_is_feasible() -> None:
    study = make_study(30, constraints={"min_accuracy": 0.999})
    note = study_note(study)
    broken = sum(bool(r.violations) for r in read_study(study).records)
    assert f"constraint `min_accuracy` = 0.999: broken by {broken} of" in note
    assert "no trial keeps every constraint (" in note
    assert "misses `min_accuracy` by" in note


def test_the_note_names_the_knee_and_keeps_markdown_out_of_names() -> None:
    note = study_note(make_study(30))
    assert "- no constraints" in note
    assert "- knee: trial " in note
    assert study_note(make_study(0, name="a`**b**")).startswith("**`a'**b**`**")


def test_it_serves_from_a_process_of_its_own_and_stops_at_an_interrupt(url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from edgesearch.search.report._dashboard import serve_dashboard; serve_dashboard({url!r}, 'demo', port={port})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/dashboard" in line
        assert _detail(port)["name"] == "demo"
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out.strip(), err) == (0, "stopped", "")
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_browser_shows_the_study(port: int, tmp_path: Path) -> None:
    page = render(f"http://127.0.0.1:{port}/dashboard/studies/1", tmp_path / "profile")
    assert "min_accuracy" in page
