"""What a person sees while a study runs."""

from __future__ import annotations

import io

from rich.console import Console

from edgesearch.search.engine._progress import LiveProgress
from edgesearch.spaces import Candidate, Student


def test_names_with_brackets_are_shown_as_they_are() -> None:
    student = Student(architecture="my_pkg:Net", parameters={"layout": "16[/2]", "kind": "[bold]"})
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=200)
    with LiveProgress(console) as progress:
        progress.finished(3, Candidate(student=student), {"accuracy": 0.9, "fps": 300.0}, None)
        progress.update(1, 2, {4: "student [/x]"})
        progress.note("[/y] is noted")
        console.print(progress._panel())
    assert "16[/2]" in shown.getvalue()
    assert "[bold]" in shown.getvalue()
    assert "[/x]" in shown.getvalue()
    assert "[/y] is noted" in shown.getvalue()
