"""`edgesearch dashboard`: optuna-dashboard on one study, for this machine only, unable to change anything.

Nothing that the browser sends can write: requests other than reading ones are refused before they reach the dashboard, the
storage it is given refuses to write (`ReadOnlyStudy`), and a SQLite database is open for reading only. The driver that runs the
study is not disturbed: with the write-ahead log that it uses, readers and the writer do not wait for each other.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
import optuna

from edgesearch.errors import StudyError
from edgesearch.search.report._no_front import why_no_front
from edgesearch.search.report._table import number, percent
from edgesearch.search.study import ReadOnlyStudy, Record, knee, nearest_misses, open_read_only, pareto_front, read_study

_Environment = dict[str, Any]
_Application = Callable[[_Environment, Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per request, all of which end with the program."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Prints no line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve_dashboard(storage_url: str, study_name: str, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve the study until interrupted.

    Raises StudyError when the port is taken, `host` is not a loopback address, or the storage or the study is not there.
    """
    with open_dashboard(storage_url, study_name, host=host, port=port) as server:
        # It logs a traceback for every plot that a young study cannot fill yet; the page says so itself.
        logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)
        click.echo(f"study {study_name}: http://{host}:{server.server_port}/dashboard  (read-only; Ctrl-C stops it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")


def open_dashboard(storage_url: str, study_name: str, *, host: str = "127.0.0.1", port: int = 8080) -> WSGIServer:
    """The server, listening but not serving yet; port 0 takes a free one. Raises StudyError as `serve_dashboard`."""
    _refuse_other_hosts(host)
    storage = ReadOnlyStudy(open_read_only(storage_url, stays_open=True), study_name, study_note)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports experimental and deprecated parts of Optuna
        from optuna_dashboard._app import create_app

        application = create_app(storage)
    try:
        return make_server(host, port, _reading_only(application, host), server_class=_Server, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"port {port} cannot be used ({reason}); stop what listens there, or give another --port") from error


def _refuse_other_hosts(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise StudyError(f"the dashboard has no passwords and is served to this machine only; host {host!r} is not 127.0.0.1")


def _reading_only(application: _Application, host: str) -> _Application:
    """Let reading requests through that were made to this machine by its own name.

    A page elsewhere whose name was made to point here (DNS rebinding) sends its own name, and gets nothing.
    """
    names = {host, "localhost", "127.0.0.1"}

    def guarded(environment: _Environment, start: Callable[..., Any]) -> Iterable[bytes]:
        if environment.get("HTTP_HOST", "").rpartition(":")[0] not in names and environment.get("HTTP_HOST") not in names:
            return _refusal(start, "403 Forbidden", "this dashboard answers to localhost only")
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refusal(start, "403 Forbidden", "this dashboard is read-only; `edgesearch optimize` alone writes the study")
        return application(environment, start)

    return guarded


def _refusal(start: Callable[..., Any], status: str, reason: str) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def study_note(study: optuna.Study) -> str:
    """The study in Markdown: constraints, the front's ends and knee, or the nearest misses."""
    view = read_study(study)
    goals = ", ".join(f"{'maximise' if o.maximise else 'minimise'} {o.name}" for o in view.objectives)
    lines = [f"**{_quoted(view.name)}**: {goals}. Read-only view by edgesearch.", ""]
    for name, limit in sorted(view.constraints.items()):
        broken = sum(name in record.violations for record in view.records if record.is_complete)
        lines.append(f"- constraint `{name}` = {limit:g}: broken by {broken} of {view.counts['COMPLETE']} complete trials")
    if not view.constraints:
        lines.append("- no constraints")
    lines.append(f"- {view.rejected} asks were rejected before any training, {view.repeats} answered from the record")
    front = pareto_front(view)
    if front:
        lines += ["", f"The front has {len(front)} members that keep every constraint and that the DPU can run:", ""]
        middle = knee(front)
        ends = {"first": front[0], "knee": middle, "last": front[-1]} if middle is not None else {}
        lines += [f"- {name}: {_member(record)}" for name, record in ends.items()]
    else:
        misses = nearest_misses(view.records, view.constraints, limit=5)
        lines += ["", _plain(why_no_front(view)) + ("; the nearest trials:" if misses else "."), ""]
        for miss in misses:
            amounts = ", ".join(f"`{n}` by {a:g}" for n, a in miss.amounts.items())
            expected = ", as was expected when it was stopped" if miss.is_expected else ""
            lines.append(f"- {_member(miss.record)}; misses {amounts}{expected}")
    return "\n".join(lines)


def _member(record: Record) -> str:
    return f"trial {record.number}, {_quoted(record.recipe)}, {percent(record.accuracy)} at {number(record.fps)} FPS"


def _plain(text: str) -> str:
    """As text, in which Markdown has no meaning."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", text)


def _quoted(text: str) -> str:
    """As code, in which Markdown has no meaning."""
    return f"`{text.replace('`', chr(39))}`"
