"""The programs as they are shipped: what they need, and that both are of one version."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from edgesearch.board_eval.runner import RUNNER_VERSION, build_command, runner_cpp_source, runner_source

#: What came after Python 3.8: methods of built-in types, arguments and functions that a program might reach for.
YOUNGER_METHODS = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "hardlink_to", "readlink", "with_stem"}
YOUNGER_ARGUMENTS = {"strict", "slots", "kw_only", "process_group", "root_dir", "include_hidden", "usedforsecurity"}
YOUNGER_NAMES = {"aiter", "anext", "ExceptionGroup", "EncodingWarning", "datetime.UTC", "functools.cache", "math.lcm"}
YOUNGER_NAMES |= {"hashlib.file_digest", "itertools.batched", "itertools.pairwise", "os.pidfd_open", "random.randbytes"}
YOUNGER_NAMES |= {"os.waitstatus_to_exitcode", "signal.pidfd_send_signal", "typing.Annotated", "math.cbrt", "ast.unparse"}
YOUNGER_MODULES = {"graphlib", "tomllib", "zoneinfo"}


@pytest.fixture(scope="module")
def tree() -> ast.Module:
    return ast.parse(runner_source(), feature_version=(3, 8))


def test_the_program_needs_only_what_a_board_has(tree: ast.Module) -> None:
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules = {name.partition(".")[0] for name in imported}
    assert modules - set(sys.stdlib_module_names) == {"numpy", "vart", "xir"}
    assert not modules & YOUNGER_MODULES


def test_annotations_are_not_evaluated_and_nothing_else_is_younger_than_python_3_8(tree: ast.Module) -> None:
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert (first.module, first.names[0].name) == ("__future__", "annotations")
    evaluated = _without_annotations(tree)
    found = set()
    for node in ast.walk(evaluated):
        if isinstance(node, ast.Attribute):
            found |= {node.attr} & YOUNGER_METHODS
            found |= {ast.unparse(node)} & YOUNGER_NAMES
        elif isinstance(node, ast.Name):
            found |= {node.id} & YOUNGER_NAMES
        elif isinstance(node, ast.keyword):
            found |= {node.arg} & YOUNGER_ARGUMENTS
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):  # flags of the operating system, nothing else
            assert all(name.startswith(("os.O_", "fcntl.LOCK_", "flags")) for name in ast.unparse(node).split(" | ")), (
                ast.unparse(node)
            )
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"list", "dict", "tuple", "set", "type", "Callable", "Iterator"}, ast.unparse(node)
    assert not found


def _without_annotations(tree: ast.Module) -> ast.Module:
    class Strip(ast.NodeTransformer):
        def visit_arg(self, node: ast.arg) -> ast.arg:
            node.annotation = None
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.returns = None
            return self.generic_visit(node)

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
            node.annotation = ast.Name("Any")
            return self.generic_visit(node)

    return ast.fix_missing_locations(Strip().visit(ast.parse(ast.unparse(tree))))


def test_both_programs_are_of_the_version_that_reports_name() -> None:
    assert f'VERSION = "{RUNNER_VERSION}"'.encode() in runner_source()
    assert f'kVersion = "{RUNNER_VERSION}"'.encode() in runner_cpp_source()


def test_the_line_that_builds_the_program_stands_in_its_source() -> None:
    assert " ".join(build_command()) in runner_cpp_source().decode()


def test_options_are_the_same() -> None:
    python = set(re.findall(r'add_argument\("(--[a-z-]+)"', runner_source().decode()))
    cpp = set(re.findall(r'"(--[a-z-]+)"', runner_cpp_source().decode())) - {"--help"}  # argparse has it by itself
    assert python - cpp == {"--export", "--csv", "--measure-anyway"}  # C++ reads no manifest
    assert cpp <= python
