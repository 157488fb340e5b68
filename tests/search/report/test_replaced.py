"""What is written for reading takes the place of its own kind alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from _studies import crowded_view

from edgesearch.errors import StudyError
from edgesearch.search.report import check_replaceable, write_front_svg, write_report


@pytest.mark.parametrize(
    ("kind", "content", "is_kept"),
    [
        ("HTML", "<!doctype html><title>", False),
        ("HTML", "\n<HTML>", False),
        ("SVG", "<svg", False),
        ("SVG", '<?xml version="1.0"?>', False),
        ("HTML", "", False),
        ("HTML", "SQLite format 3\0", True),
        ("SVG", "name = 'mine'", True),
        ("SVG", "<!doctype html>", True),
        ("HTML", "\udcff\udcfe", True),
    ],
)
def test_another_kind_is_kept(kind: Literal["HTML", "SVG"], content: str, is_kept: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    check_replaceable(path, kind)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    if is_kept:
        with pytest.raises(StudyError, match=rf"file is no {kind}, which would take its place; give another name"):
            check_replaceable(path, kind)
    else:
        check_replaceable(path, kind)


def test_a_database_is_no_place_for_a_report_or_a_picture(tmp_path: Path) -> None:
    crowded = crowded_view()
    database = tmp_path / "studies.db"
    database.write_bytes(b"SQLite format 3\0")
    for write in (write_report, write_front_svg):
        with pytest.raises(StudyError, match=r"studies\.db is no"):
            write(crowded, database)
    assert database.read_bytes() == b"SQLite format 3\0"
    for write, name in ((write_report, "a.html"), (write_front_svg, "a.svg")):
        write(crowded, tmp_path / name)
        write(crowded, tmp_path / name)
