"""docker or podman, whichever is there and has the image of Vitis AI, and the command lines that they are given."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgesearch.board_eval.vitis._process import Command, Finished, host_environment, last_lines, run_command
from edgesearch.board_eval.vitis._settings import VitisSettings
from edgesearch.errors import ToolchainError, ToolchainMissing

__all__ = ["JOB_FOLDER", "Container", "Engine", "find_container"]

EngineKind: TypeAlias = Literal["docker", "podman"]

#: Where a job's folder lies inside the container.
JOB_FOLDER = "/job"
#: The conda environment of Vitis AI's PyTorch image. Its start script takes a terminal, root and a change of the user's id,
#: so that it is passed over: the environment's programs are run as they are.
_ENVIRONMENT = "/opt/vitis_ai/conda/envs/vitis-ai-pytorch"
_PATH = f"{_ENVIRONMENT}/bin:/opt/vitis_ai/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds that an engine has to answer a question.
_ANSWER_S = 60.0
#: Exit codes of `docker run` and `podman run` where the engine failed, where a program does not run, and where there is none.
_NEVER_STARTED = (125, 126, 127)
_IMAGE_ID = re.compile(r"^(?:sha256:)?[0-9a-f]{12,64}$", re.MULTILINE)


@dataclass(frozen=True)
class Engine:
    """A container engine of this machine; `own_user` are the options by which files that a container writes are ours."""

    kind: EngineKind
    path: str
    own_user: tuple[str, ...]

    def ask(self, *arguments: str) -> Finished:
        """What the engine answers; raises ToolchainError when it does not."""
        command = Command((self.path, *arguments), Path("/"), host_environment())
        try:
            return run_command(command, log=None, timeout_s=_ANSWER_S)
        except ToolchainMissing:
            raise
        except ToolchainError:  # it took too long: on a busy machine the second answer comes
            return run_command(command, log=None, timeout_s=_ANSWER_S)

    def image_id(self, image: str) -> str | None:
        """The id of an image; None where it is not there. Raises ToolchainMissing when the engine does not work."""
        answer = self.ask("image", "inspect", "--format", "{{.Id}}", image)
        found = _IMAGE_ID.search(answer.output)  # warnings may stand around it
        if answer.code == 0 and found is not None:
            return found[0]
        said = answer.output.lower()
        if "no such image" in said or "image not known" in said or "no such object" in said:
            return None
        raise ToolchainMissing(
            f"{self.path} does not work ({last_lines(answer.output, 1) or f'exit code {answer.code}'}); start it, or let this "
            "user use it"
        )

    def pull_line(self, image: str) -> str:
        """The command that fetches the image."""
        return f"{self.kind} pull {'docker.io/' if self.kind == 'podman' and _is_short(image) else ''}{image}"


@dataclass(frozen=True)
class Container:
    """A program of Vitis AI's image, on an engine that has it."""

    engine: Engine
    image: str
    image_id: str
    program: str

    @property
    def description(self) -> str:
        """In words."""
        return f"{self.image} in {self.engine.kind} ({self.image_id.removeprefix('sha256:')[:12]})"

    @property
    def identity(self) -> str:
        """What decides what the program makes."""
        return f"image {self.image_id}"

    def inside(self, path: Path, folder: Path) -> str:
        """Where a file of the job's folder lies for the program."""
        return JOB_FOLDER if path == folder else f"{JOB_FOLDER}/{path.relative_to(folder).as_posix()}"

    def never_started(self, finished: Finished) -> bool:
        """Whether the engine failed to run the program: it has ended, or it has no such image, or that no such program."""
        return finished.code in _NEVER_STARTED

    def command(self, arguments: Sequence[str], folder: Path | None = None) -> Command:
        """The command that runs the program on a job's folder, the one thing of this machine that it sees.

        No network, no privileges, nothing written but in the folder and in a /tmp that goes with the container. The image is
        named by its id, so that what runs is what was found, and nothing is fetched.
        """
        mounts = () if folder is None else ("--mount", _csv("type=bind", f"source={folder}", f"target={JOB_FOLDER}"))
        name = f"edgesearch-{uuid.uuid4().hex}"
        options = [
            *("run", "--rm", "--name", name, "--pull", "never", "--network", "none"),
            *self.engine.own_user,
            *("--read-only", "--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"),
            *mounts,
            *("--workdir", "/tmp" if folder is None else JOB_FOLDER),
            *(f"--env={variable}={value}" for variable, value in _variables().items()),
            *("--entrypoint", "/usr/bin/env"),
        ]
        return Command(
            (self.engine.path, *options, self.image_id, self.program, *arguments),
            folder or Path("/"),
            host_environment(),
            stop=(self.engine.path, "kill", name),
        )


def find_container(settings: VitisSettings, program: str) -> Container:
    """The program in the image, on the first engine that has the image.

    Raises ToolchainMissing, one sentence that says what is missing and gives the command that gets it.
    """
    if settings.engine == "none":
        raise ToolchainMissing("no container is used, since [vitis] engine is 'none'")
    kinds: tuple[EngineKind, ...] = ("docker", "podman") if settings.engine == "auto" else (settings.engine,)
    paths = [(kind, path) for kind in kinds if (path := shutil.which(kind)) is not None]
    if not paths:
        raise ToolchainMissing(
            f"there is no container engine on PATH ({' or '.join(kinds)}); install one, then: {kinds[0]} pull {settings.image}"
        )
    problems: list[str] = []
    absent: list[Engine] = []
    for kind, path in paths:
        try:
            engine = _engine(kind, path)
            image_id = engine.image_id(settings.image)
        except ToolchainError as error:
            problems.append(str(error))
            continue
        if image_id is not None:
            return Container(engine, settings.image, image_id, program)
        absent.append(engine)
    if absent:
        raise ToolchainMissing(
            f"the image {settings.image} is not in {' or '.join(e.kind for e in absent)}; get it with: "
            f"{absent[0].pull_line(settings.image)}"
        )
    raise ToolchainMissing("; ".join(problems))


def _engine(kind: EngineKind, path: str) -> Engine:
    asking = Engine(kind, path, ())
    if kind == "docker" and "podman" in asking.ask("--version").output.lower():
        kind = "podman"  # a distribution's package that answers to docker's name
    return Engine(kind, path, _own_user(kind, asking))


def _own_user(kind: EngineKind, engine: Engine) -> tuple[str, ...]:
    """Options by which the program has this user's id outside of the container, whatever it has inside."""
    own = ("--user", f"{os.geteuid()}:{os.getegid()}")
    if kind == "podman":
        return (*own, "--userns=keep-id") if os.geteuid() else own
    security = engine.ask("info", "--format", "{{.SecurityOptions}}").output
    if "name=rootless" in security:
        return ()  # its root is this user
    return (*own, "--userns=host") if "name=userns" in security else own


def _variables() -> dict[str, str]:
    """A user without a home or a name in the image, to whom every program is told both."""
    variables = {"PATH": _PATH, "CONDA_PREFIX": _ENVIRONMENT, "HOME": "/tmp", "USER": "edgesearch", "LOGNAME": "edgesearch"}
    if "OMP_NUM_THREADS" in os.environ:
        variables["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return variables


def _is_short(image: str) -> bool:
    """Whether the reference leaves out the registry, which podman may then ask for."""
    first = image.partition("/")[0]
    return not ("." in first or ":" in first or first == "localhost")


def _csv(*fields: str) -> str:
    """Fields as engines read them: a comma in a folder's name is none between fields."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
