"""A Hugging Face hub on this computer, as far as downloading single files goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Hub:
    """What it serves, by "owner/name/resolve/main/path", and what it was asked for.

    stated: sha256 sums it claims instead of the true ones
    breaks_after: bytes after which it drops the connection, once
    """

    files: dict[str, bytes] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def bodies(self) -> list[str | None]:
        """The Range header of every download, None for a whole file."""
        return [span for method, path, span in self.asked if method == "GET" and "/resolve/" in path]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port while the block runs; `hub.endpoint` goes into HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            key, span = self.path.lstrip("/"), self.headers.get("Range")
            hub.asked.append((self.command, key, span))
            content = hub.files.get(key)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(span.removeprefix("bytes=").partition("-")[0]) if body and span else 0
            part = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hub.stated.get(key, sha256(content).hexdigest())}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self._send(part)

        def _send(self, part: bytes) -> None:
            if hub.breaks_after is None:
                self.wfile.write(part)
                return
            self.wfile.write(part[: hub.breaks_after])
            hub.breaks_after = None
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing: the test prints what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
