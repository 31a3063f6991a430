"""What the page's head loads of extensions, as A1111 loads it: stylesheets, scripts and modules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from fastapi import FastAPI
from starlette.responses import FileResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HELPERS = Path(__file__).with_name("page.js")
"""The functions that A1111 has for extensions' scripts."""
_STYLE = Path(__file__).with_name("page.css")
_FOREIGN = re.compile(
    rb"<script[^>]*\ssrc=\"https?://[^>]*>\s*</script>|<link[^>]*\shref=\"https?://[^>]*>", re.IGNORECASE
)
"""What gradio's own page would ask other hosts for."""
_KINDS = {".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript"}


def files(roots: Sequence[Path]) -> dict[str, Path]:
    """The address of each file: first our own, then the extensions' stylesheets and their code by name."""
    found = {"/page/page.js": _HELPERS, "/page/page.css": _STYLE}
    for root in roots:
        own = [root / "style.css", *sorted((root / "javascript").glob("*.js"))]
        own += sorted((root / "javascript").glob("*.mjs"))
        found |= {
            f"/page/{quote(root.name)}/{quote(file.relative_to(root).as_posix())}": file
            for file in own
            if file.is_file()
        }
    return found


def serve(app: FastAPI, found: Mapping[str, Path]) -> None:
    """Add a route for each file."""

    def route(file: Path) -> Any:
        return lambda: FileResponse(file, media_type=_KINDS[file.suffix])

    for address, file in found.items():
        app.add_api_route(unquote(address), route(file), include_in_schema=False)


def html(found: Mapping[str, Path], options: Mapping[str, Any]) -> str:
    """The elements that load the files. `opts` holds the settings, as on A1111's page."""
    told = json.dumps(options, default=str).replace("</", "<\\/")
    lines = [f"<script>window.opts = {told};</script>"]
    for address, file in found.items():
        url = escape(f"{address}?{int(file.stat().st_mtime)}")
        if file.suffix == ".css":
            lines.append(f'<link rel="stylesheet" href="{url}">')
        else:
            kind = ' type="module"' if file.suffix == ".mjs" else ""
            lines.append(f'<script{kind} src="{url}"></script>')
    return "\n".join(lines)


class Head:
    """Puts `head` into the page at /, in any gradio, and takes out what would ask other hosts."""

    def __init__(self, app: ASGIApp, head: str) -> None:
        self.app, self._head = app, head.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        body = bytearray()
        start: Message = {}

        async def collected(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await self._answer(start, bytes(body))(scope, receive, send)

        await self.app({**scope, "headers": plain}, receive, collected)

    def _answer(self, start: Message, body: bytes) -> Response:
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        if "text/html" in headers.get("content-type", ""):
            body = _FOREIGN.sub(b"", body).replace(b"<head>", b"<head>\n" + self._head, 1)
        headers.pop("content-length", None)
        return Response(body, start["status"], headers)
