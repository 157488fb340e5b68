"""What the boards file says of one board."""

from __future__ import annotations

import os
import re
import stat
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from edgesearch.board_eval.targets import DEFAULT_BOARD, BoardProfile, load_profile
from edgesearch.errors import BoardError, PluginError, TargetError
from edgesearch.settings import Settings

__all__ = ["NAME", "BoardSettings", "RunnerChoice"]

#: Names of boards and pools.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: "auto": the C++ runner where the board can build it, else the Python one.
RunnerChoice: TypeAlias = Literal["auto", "python", "cpp"]

#: A name's parts between dots have at most so many characters.
_LONGEST_LABEL = 63
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:%_-]{0,252}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
#: A measurement's length in `seconds`, at most: a quarter to warm up, latency and throughput twice each; and seconds beside.
_MOST_OF_SECONDS, _BESIDE_S = 4.25, 1.0
_PROGRAM = re.compile(r"[A-Za-z0-9_./+-]{1,255}")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def _a_host(value: str) -> str:
    """A name of which every part can be looked up, or an address."""
    if ":" in value:
        try:
            IPv6Address(value)
        except ValueError:
            raise ValueError("expected an address, as fe80::1%eth0; the port has a key of its own") from None
    elif not all(0 < len(label) <= _LONGEST_LABEL for label in value.split(".")):
        raise ValueError(f"expected 1 to {_LONGEST_LABEL} characters between dots")
    return value


class BoardSettings(Settings):
    """One `[board.NAME]` table; paths are absolute or start where the program does. Frozen."""

    name: Annotated[str, _matching(NAME, "letters, digits, '.', '_' and '-', at most 64, a letter or digit first")]
    #: Its name or address in the network.
    host: Annotated[str, _matching(_HOST, "a host name or an address, as 192.168.1.20"), AfterValidator(_a_host)]
    port: int = Field(default=22, ge=1, le=65535)
    user: Annotated[str, _matching(_USER, "the name of a user on the board, as root")] = "root"
    #: The private key that opens it; nobody else may read the file, and it has no passphrase.
    key: Path
    #: Where the board's own key is known from; a board whose key is not there is refused.
    known_hosts: Path = Path("~/.ssh/known_hosts")
    #: Its DPU: the name of a profile or the path of one (JSON).
    target: str = DEFAULT_BOARD
    runner: RunnerChoice = "auto"
    #: The board's Python: a program on its PATH, or the path of one.
    python: Annotated[str, _matching(_PROGRAM, "a program's name or path, without spaces")] = "python3"
    #: Folder on the board that holds private folders of jobs, the files kept for later ones, and the lock.
    folder: str = "/tmp"
    #: What switches the board off and on again, run on this machine: a program and its arguments.
    power_cycle: tuple[str, ...] = ()
    #: Most seconds that one step may take: a copy, waiting for the board while another driver has it, a measurement.
    timeout_s: float = Field(default=300.0, gt=0, le=86400, allow_inf_nan=False)
    #: How long each figure is measured, and how often.
    seconds: float = Field(default=2.0, gt=0, le=600, allow_inf_nan=False, validate_default=True)
    repeats: int = Field(default=5, ge=5, le=100)
    #: Threads of the throughput; 0: two for each core.
    threads: int = Field(default=0, ge=0, le=64)
    #: Most MiB of files kept on the board for later jobs; the ones not used for longest go first.
    cache_mib: int = Field(default=512, ge=1, le=1 << 20)

    @field_validator("python")
    @classmethod
    def _no_option(cls, value: str) -> str:
        if value.startswith("-"):
            raise ValueError("expected a program's name or path, without spaces")
        return value

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str) -> str:
        plain = re.fullmatch(r"(/[A-Za-z0-9_.+-]+)+", value) is not None and len(value) <= 200
        if not plain or any(part in (".", "..") for part in value.split("/")):
            raise ValueError("expected the absolute path of a folder on the board, without spaces, as /tmp")
        return value

    @field_validator("seconds")
    @classmethod
    def _ends_in_time(cls, value: float, info: ValidationInfo) -> float:
        needed = _MOST_OF_SECONDS * value + _BESIDE_S
        if info.data.get("timeout_s", needed) < needed:
            raise ValueError(
                f"a measurement may take {_MOST_OF_SECONDS:g} times as long and {_BESIDE_S:g} s, which timeout_s = "
                f"{info.data['timeout_s']:g} does not give it; give timeout_s at least {needed:g}, or fewer seconds"
            )
        return value

    @field_validator("power_cycle")
    @classmethod
    def _a_program(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if (value and not value[0]) or any("\0" in part for part in value):
            raise ValueError("expected a program and its arguments, one string each")
        return value

    def profile(self) -> BoardProfile:
        """What is known of its DPU; raises BoardError where `target` leads to nothing."""
        try:
            return load_profile(self.target)
        except (TargetError, PluginError) as error:
            raise BoardError(f"board {self.name!r}, target: {error}") from error

    def check(self) -> None:
        """Raise BoardError where its profile or its key cannot be used; the network is not asked."""
        self.profile()
        try:
            with open(os.open(self.key, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe is waited for otherwise
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise BoardError(
                f"board {self.name!r}, key: {str(self.key)!r} cannot be read ({error.strerror or error}); make a key with "
                f"ssh-keygen -t ed25519 -f {self.key} and put its .pub into the board's ~/.ssh/authorized_keys"
            ) from error
        if not stat.S_ISREG(mode):
            raise BoardError(f"board {self.name!r}, key: {str(self.key)!r} is no file; give the path of a private key")
        if mode & 0o077:
            raise BoardError(
                f"board {self.name!r}, key: others than its owner may use {str(self.key)!r} (mode {mode & 0o777:03o}); "
                f"run chmod 600 {self.key}"
            )
