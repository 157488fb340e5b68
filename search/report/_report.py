"""The report: one HTML file that holds everything, asks for nothing from the network and opens from the disk."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.search.report._data import front_picture, page_data, stage_times
from edgesearch.search.report._html import (
    cards,
    choices_section,
    failures_section,
    front_section,
    header,
    history_section,
    misses_section,
    time_section,
)
from edgesearch.search.study import StudyView

#: The browser itself refuses every request, so that nothing in the page can make one.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def write_report(view: StudyView, path: Path) -> None:
    """Write the study's report to `path`, whole or not at all.

    Raises StudyError when the file cannot be written.
    """
    content = report_html(view)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StudyError(f"the report cannot be written to {path} ({error.strerror}); name another file") from error


def report_html(view: StudyView) -> str:
    """The report's HTML."""
    picture, times = front_picture(view), stage_times(view)
    body = [
        header(view),
        "<main>",
        cards(view, picture),
        misses_section(view, picture),
        front_section(view, picture),
        history_section(view),
        time_section(view, times),
        choices_section(view, picture),
        failures_section(view),
        "</main>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(view.name)} · edgesearch</title>",
            f"<style>{_own_file('_report.css')}</style>",
            "</head>",
            "<body>",
            *body,
            f'<script type="application/json" id="data">{_json_in_html(page_data(view, picture, times))}</script>',
            f"<script>{_script_in_html(_plotly())}</script>",
            f"<script>{_script_in_html(_own_file('_report.js'))}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _own_file(name: str) -> str:
    return (resources.files("edgesearch.search.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js as plotly ships it, without importing the rest of it."""
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _json_in_html(content: dict[str, Any]) -> str:
    """JSON that no HTML parser can take for the end of the script."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _script_in_html(script: str) -> str:
    """JavaScript in which `</script` and `<!--` are written so that they mean the same and end nothing."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
