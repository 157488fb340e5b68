"""The two programs as bytes, to be copied to a board, and how the one in C++ is built there."""

from __future__ import annotations

from importlib import resources

__all__ = ["CPP_NAME", "PYTHON_NAME", "RUNNER_VERSION", "build_command", "runner_cpp_source", "runner_source"]

#: Of both programs: what they measure and how changed when it did.
RUNNER_VERSION = "1"
#: As the files are called on a board and in an export.
PYTHON_NAME, CPP_NAME = "run_on_board.py", "run_on_board.cpp"


def runner_source() -> bytes:
    """The program in Python 3.8 with numpy, xir and vart."""
    return _read(f"_{PYTHON_NAME}")


def runner_cpp_source() -> bytes:
    """The program in C++17, one file, with XIR's and VART's headers: the same command line, report and exit codes.

    It is faster where networks are small, since Python takes as long to feed the DPU as the DPU needs.
    """
    return _read(CPP_NAME)


def build_command(source: str = CPP_NAME, program: str = "run_on_board") -> tuple[str, ...]:
    """The words of the command that builds the program in C++ on the board, whose image has g++ and Vitis AI's libraries."""
    libraries = ("-lvart-runner", "-lxir", "-lunilog", "-lglog", "-lpthread")
    return ("g++", "-O2", "-std=c++17", source, "-o", program, *libraries)


def _read(name: str) -> bytes:
    return (resources.files("edgesearch.board_eval.runner") / name).read_bytes()
