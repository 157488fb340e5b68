"""The examples of docs/library.md, one after the other in one empty folder; and a user's script as mypy sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import edgesearch.search

ROOT = Path(__file__).parents[2]
#: What a user's script may do with the front door, and the types it gets.
SCRIPT = """
from pathlib import Path

from edgesearch.errors import StudyError
from edgesearch.search import Front, Study, StudyFile, StudyRecord, __version__

def deploy(name: str) -> Path:
    study = Study.load(name, home="runs")
    front: Front = study.front()
    record: StudyRecord = front[0]
    accuracy: float | None = record.accuracy
    if accuracy is None:
        raise StudyError(__version__)
    reveal_type(front.best(min_fps=300))
    return record.export("deploy")

settings: StudyFile = StudyFile.parse({"name": "a"})
Study.open(settings, home="runs").optimize(20, workers=2, progress=print)
Study.open(3)
"""
#: Packages whose types ours are made of; the others are left out, since reading them takes minutes.
NEEDED = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions.py", "numpy")


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_documented_examples_run(tmp_path: Path) -> None:
    assert len(examples()) >= 6
    code = "\n".join(f"exec({example!r}, {{}})" for example in examples())
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[3/3] trial 2" in done.stdout
    assert "input_size = 3, expected greater than or equal to 4" in done.stdout
    assert "no member of the front keeps these limits" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "deploy",
        "flowers.html",
        "net.xmodel",
        "net_int.onnx",
        "net_int.xmodel",
        "runs",
    ]


def test_the_version_is_the_installed_one() -> None:
    assert edgesearch.search.__version__ == metadata.version("edgesearch")


@pytest.mark.slow
def test_a_users_script_is_typed_by_the_installed_package(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("spaces", "board_eval", "objectives", "search", "studies"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*install, str(source)], check=True, capture_output=True)
    import pydantic

    shared = Path(pydantic.__file__).parents[1]
    for name in NEEDED:
        (site / name).symlink_to(shared / name)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(tmp_path / "venv" / "bin" / "python")]
    done = subprocess.run([*command, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line.partition("script.py:")[2] for line in done.stdout.splitlines() if "script.py:" in line]
    assert len(lines) == 2, done.stdout
    assert 'Revealed type is "edgesearch.search.library._front.StudyRecord"' in lines[0]
    assert '"open" of "Study" has incompatible type "int"' in lines[1]
