"""The report: one HTML file that holds everything, asks for nothing from the network and opens from the disk."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from edgesearch.errors import StudyError
from edgesearch.files import write_atomically
from edgesearch.search.report import _sections as sections
from edgesearch.search.report._data import front_picture, page_data, stage_times
from edgesearch.search.report._no_front import why_no_front
from edgesearch.search.report._replaced import check_replaceable
from edgesearch.search.report._table import LEGEND, certainty_note, columns
from edgesearch.search.study import StudyView

#: The browser itself refuses every request, so that nothing in the page can make one.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def write_report(view: StudyView, path: Path) -> None:
    """Write the study's report to `path`, whole or not at all.

    Raises StudyError when the file cannot be written, and where another kind of file is there.
    """
    check_replaceable(path, "HTML")
    content = report_html(view)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())
    except OSError as error:
        raise StudyError(f"the report cannot be written to {path} ({error.strerror or error}); name another file") from error


def report_html(view: StudyView) -> str:
    """The report's HTML. The template escapes whatever comes from the study."""
    picture, times = front_picture(view), stage_times(view)
    return _template().render(
        policy=_POLICY,
        view=view,
        picture=picture,
        goals=sections.goals(view),
        limits=sections.limits(view),
        period=sections.period(view),
        cards=sections.cards(view, picture),
        misses=sections.misses(view),
        emptiness=why_no_front(view),
        caption=sections.front_caption(picture),
        columns=columns(view),
        rows=sections.front_rows(view, picture),
        legend=LEGEND,
        certainty=certainty_note(view, picture.front),
        times=times,
        time_facts=sections.time_facts(view, times),
        choices=sections.choices(view, picture),
        failures=sections.failures(view),
        style=Markup(_own_file("_report.css")),
        data=Markup(_json_in_html(page_data(view, picture, times))),
        plotly=Markup(_script_in_html(_plotly())),
        script=Markup(_script_in_html(_own_file("_report.js"))),
    )


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_own_file("_report.html.j2"))


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
