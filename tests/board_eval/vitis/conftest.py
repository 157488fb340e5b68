"""Stand-ins for docker, podman and vai_c_xir: scripts on a PATH of their own that write down how they were called."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

#: What every stand-in does first: writes down its arguments, folder and environment, and what its mount shows.
_RECORD = """
import csv, json, os, pathlib, signal, subprocess, sys, time
HERE = pathlib.Path({here!r})
arguments = sys.argv[1:]
call = {{"program": {name!r}, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}}
with (HERE / "calls.jsonl").open("a") as file:
    file.write(json.dumps(call) + "\\n")
"""

#: An engine that has one image and runs the programs of `image/` in the mounted folder, as the user who asks.
ENGINE = """
if arguments == ["--version"]:
    print(VERSION)
elif arguments[0] == "info":
    print(SECURITY)
elif arguments[:2] == ["image", "inspect"]:
    if TROUBLE:
        print(TROUBLE); sys.exit(1)
    if arguments[-1] != IMAGE:
        print("[]\\nError: No such image: " + arguments[-1]); sys.exit(1)
    print(IMAGE_ID)
elif arguments[0] == "kill":
    pid = int((HERE / arguments[1]).read_text())
    os.killpg(pid, signal.SIGKILL)
elif arguments[0] == "run" and GONE:
    print(GONE); sys.exit(125)
elif arguments[0] == "run":
    at = arguments.index(IMAGE_ID)
    options, program = arguments[1:at], arguments[at + 1:]
    assert options[options.index("--entrypoint") + 1] == "/usr/bin/env", options
    name = options[options.index("--name") + 1]
    folder = "/"
    if "--mount" in options:
        (mount,) = csv.reader([options[options.index("--mount") + 1]])
        folder = dict(part.split("=", 1) for part in mount)["source"]
    inner = [folder + a[4:] if a == "/job" or a.startswith("/job/") else a for a in program[1:]]
    inner = [str(HERE / "image" / program[0]), *inner]
    process = subprocess.Popen(inner, cwd=folder, start_new_session=True)
    (HERE / name).write_text(str(process.pid))
    sys.exit(process.wait())
else:
    sys.exit("unknown command " + arguments[0])
"""


@dataclass
class Machine:
    """A machine with the programs that a test puts on it, and nothing else on its PATH."""

    home: Path

    def put(self, name: str, body: str, *, where: str = "bin") -> Path:
        path = self.home / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{sys.executable} -S\n" + _RECORD.format(here=str(self.home), name=name) + body)
        path.chmod(0o755)
        return path

    def put_engine(
        self,
        kind: str = "docker",
        *,
        image: str = "xilinx/vitis-ai-pytorch-cpu:latest",
        version: str = "",
        security: str = "[name=seccomp,profile=builtin]",
        trouble: str = "",
        gone: str = "",
    ) -> Path:
        values = {
            "VERSION": version or f"{kind} version 24.0",
            "SECURITY": security,
            "TROUBLE": trouble,
            "GONE": gone,
            "IMAGE": image,
            "IMAGE_ID": "sha256:" + "ab" * 32,
        }
        return self.put(kind, "".join(f"{name} = {value!r}\n" for name, value in values.items()) + ENGINE)

    def calls(self, program: str | None = None) -> list[dict[str, object]]:
        path = self.home / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in found if program in (None, call["program"])]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    home = tmp_path / "machine"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.setenv("SECRET", "of this user")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "ours"))
    assert os.environ["PATH"] == str(home / "bin")
    return Machine(home)
