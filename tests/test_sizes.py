"""Modules, functions and files of tests stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("spaces", "board_eval", "objectives", "search", "benchmarks")
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60
#: Stands above a function that is longer with its signature and docstring.
REASON = "# Long for its arguments, and for what is told of them."
#: Each is copied as one file to where edgesearch is not installed: a board, and Vitis AI's Python.
ALONE = {"board_eval/runner/_run_on_board.py", "objectives/vitis/_run_vitis.py"}


def modules() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without its signature and docstring, which may tell a lot."""
    first = function.body[1] if ast.get_docstring(function) is not None and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def test_no_module_is_long_unless_it_must_be_one_file() -> None:
    long = {name for name, text in modules() if text.count("\n") > MOST_LINES}
    assert long == ALONE


def test_no_file_of_tests_is_long() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    long = {path.relative_to(ROOT).as_posix() for path in files if path.read_text(encoding="utf-8").count("\n") > MOST_LINES}
    assert files
    assert not long


def functions() -> Iterator[tuple[str, str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each with the name of its module and the line above it."""
    for name, text in modules():
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield name, lines[first - 2].strip() if first > 1 else "", node


def test_no_function_is_long() -> None:
    long = {f"{name}:{node.lineno} {node.name}" for name, _, node in functions() if lines_of(node) > MOST_OF_A_FUNCTION}
    assert not long


def test_a_function_that_is_long_for_its_arguments_says_so_and_no_other_does() -> None:
    for name, above, node in functions():
        is_long = (node.end_lineno or node.lineno) - node.lineno + 1 > MOST_OF_A_FUNCTION
        assert is_long == (above == REASON), f"{name}:{node.lineno} {node.name}"
