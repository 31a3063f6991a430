"""HTTP Basic authentication in front of everything the host serves."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class BasicAuth:
    """Lets in only who knows one of "user:password,user:password"; everyone else gets 401."""

    def __init__(self, app: ASGIApp, passwords: str) -> None:
        self.app = app
        self._known = [pair.strip().encode() for pair in passwords.split(",")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._lets_in(Headers(scope=scope).get("authorization", "")):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        content = {
            "error": "HTTPException",
            "detail": "Incorrect username or password",
            "body": "",
            "errors": "",
        }
        refusal = JSONResponse(content, 401, {"WWW-Authenticate": 'Basic realm="ControlStack"'})
        await refusal(scope, receive, send)

    def _lets_in(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        try:
            said = base64.b64decode(given, validate=True)
        except ValueError:
            return False
        # all are compared, each in constant time, so that the answer's delay tells nothing
        matches = [secrets.compare_digest(said, pair) for pair in self._known]
        return scheme.lower() == "basic" and any(matches)
