"""Jobs in Vitis AI's Python: where it is looked for, what it is told, and how it fails."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edgesearch.board_eval.vitis import VitisSettings, find_python, run_python_job
from edgesearch.errors import ToolchainError

from .conftest import Machine

#: A Python in which `pytorch_nndct` is a module of the test's.
WRAPPER = "os.execve(PYTHON, [PYTHON, *arguments], {**os.environ, 'PYTHONPATH': MODULES})\n"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "pytorch_nndct.py").write_text("__version__ = '3.5.0'\nprint('[VAIQ] noise of an import')\n")
    return folder


def put_python(machine: Machine, modules: Path, name: str = "python", where: str = "env/bin") -> Path:
    return machine.put(name, f"PYTHON, MODULES = {sys.executable!r}, {str(modules)!r}\n{WRAPPER}", where=where)


@pytest.fixture
def job(tmp_path: Path) -> tuple[Path, Path]:
    script = tmp_path / "scripts" / "do_it.py"
    script.parent.mkdir()
    script.write_text(
        "import os, pathlib, sys\nimport pytorch_nndct\n"
        "folder = pathlib.Path(sys.argv[1])\nprint('working')\n"
        "(folder / 'result.txt').write_text(pytorch_nndct.__version__ + ' ' + (folder / 'job.txt').read_text())\n"
    )
    folder = tmp_path / "job, with a comma"
    folder.mkdir()
    (folder / "job.txt").write_text("net")
    return script, folder


def test_a_given_python_runs_the_script_without_our_environment(
    machine: Machine, modules: Path, job: tuple[Path, Path]
) -> None:
    python = put_python(machine, modules)
    run_python_job(*job, VitisSettings(python=str(python)))
    assert (job[1] / "result.txt").read_text() == "3.5.0 net"
    assert "working" in (job[1] / "do_it.log").read_text()
    for call in machine.calls("python"):
        environment = call["environment"]
        assert isinstance(environment, dict)
        assert "SECRET" not in environment
        assert "PYTHONPATH" not in environment
        assert environment["PATH"].split(os.pathsep)[0] == str(python.parent)
    assert [c["arguments"] for c in machine.calls("python")][-1] == [str(job[1] / "do_it.py"), str(job[1])]


def test_this_python_is_taken_where_it_has_the_packages(
    machine: Machine, modules: Path, job: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(modules))
    run_python_job(*job, VitisSettings())
    assert (job[1] / "result.txt").read_text() == "3.5.0 net"
    assert machine.calls() == []


def test_else_the_container_runs_it_with_nothing_but_the_jobs_folder(
    machine: Machine, modules: Path, job: tuple[Path, Path]
) -> None:
    machine.put_engine("docker")
    put_python(machine, modules, where="image")
    run_python_job(*job, VitisSettings())
    assert (job[1] / "result.txt").read_text() == "3.5.0 net"
    (probe, run) = [c["arguments"] for c in machine.calls("docker") if c["arguments"][0] == "run"]  # type: ignore[index]
    assert isinstance(run, list)
    assert isinstance(probe, list)
    assert "--mount" not in probe
    assert [a for a in run if "type=bind" in a] == [f'type=bind,"source={job[1]}",target=/job']
    assert not {"-v", "--volume", "--privileged"} & set(run)
    assert run[-3:] == ["python", "/job/do_it.py", "/job"]


def test_a_python_without_the_package_is_one_sentence(machine: Machine, modules: Path, job: tuple[Path, Path]) -> None:
    (modules / "pytorch_nndct.py").unlink()
    python = put_python(machine, modules)
    with pytest.raises(ToolchainError, match=r"is a Python without pytorch_nndct \(ModuleNotFoundError.*set \[vitis\] python"):
        run_python_job(*job, VitisSettings(python=str(python)))
    with pytest.raises(ToolchainError, match="is no program that can be run"):
        run_python_job(*job, VitisSettings(python="/nowhere/python"))
    with pytest.raises(
        ToolchainError, match=r"no Python with pytorch_nndct was found.*docker pull xilinx/vitis-ai-pytorch-cpu"
    ):
        run_python_job(*job, VitisSettings())
    with pytest.raises(ToolchainError, match="engine is 'none'"):
        find_python(VitisSettings(engine="none"))


def test_a_python_that_dies_of_an_import_is_one_sentence(machine: Machine, modules: Path, job: tuple[Path, Path]) -> None:
    (modules / "pytorch_nndct.py").write_text(
        "import os, signal\nprint('torch 2 found', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    python = put_python(machine, modules)
    with pytest.raises(ToolchainError, match=r"cannot run Python \(signal 11\): torch 2 found"):
        run_python_job(*job, VitisSettings(python=str(python)))


def test_a_script_that_fails_is_quoted_and_its_log_stays(machine: Machine, modules: Path, job: tuple[Path, Path]) -> None:
    python = put_python(machine, modules)
    job[0].write_text("print('\\x1b[31mfirst\\x1b[0m'); raise SystemExit('no such layer')")
    with pytest.raises(ToolchainError) as caught:
        run_python_job(*job, VitisSettings(python=str(python)))
    assert "do_it.py failed in" in str(caught.value)
    assert "exit code 1" in str(caught.value)
    assert "first | no such layer" in str(caught.value)
    assert str(job[1] / "do_it.log") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contained", [False, True])
def test_a_job_that_hangs_is_ended_with_its_children(
    contained: bool, machine: Machine, modules: Path, job: tuple[Path, Path]
) -> None:
    python = put_python(machine, modules, where="image" if contained else "env/bin")
    if contained:
        machine.put_engine("podman")
    job[0].write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.path.join(sys.argv[1], 'pids'), 'w').write(f'{os.getpid()} {child.pid}')\n"
        "print('on it', flush=True)\n"
        "time.sleep(600)\n"
    )
    settings = VitisSettings(python="" if contained else str(python), job_timeout_s=3)
    started = time.monotonic()
    with pytest.raises(ToolchainError, match=r"did not end within 3 s and was stopped \(its last lines: on it\)"):
        run_python_job(*job, settings)
    assert time.monotonic() - started < 30
    for pid in map(int, (job[1] / "pids").read_text().split()):
        assert _gone(pid)


def _gone(pid: int) -> bool:
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False
