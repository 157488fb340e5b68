"""A server of files on this machine that breaks connections as it is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `content` under every path but those of `files`.

    `cuts`: of each next answer, the bytes after which the connection is closed.
    """

    content = b""
    files: dict[str, bytes]
    resumes = True
    cuts: list[int]
    #: The first byte that each request asked for.
    asked: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found.group(1)) if found else 0
        self.server.asked.append(start)
        if not self.server.resumes:
            start = 0
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        content = self.server.files.get(self.path, self.server.content)
        if start and start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.cuts.pop(0)] if self.server.cuts else rest)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@contextmanager
def serve(content: bytes) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.content, server.files, server.cuts, server.asked = content, {}, [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
