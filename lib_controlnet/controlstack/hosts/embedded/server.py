"""A1111's HTTP API and the page, on 127.0.0.1."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from modules import script_callbacks, shared
from modules.paths import default_output_dir

from controlstack.errors import ControlError
from controlstack.hosts.embedded import api_jobs, api_lists, api_state, auth, latest

HOST = "127.0.0.1"
_PATIENCE = 3
"""Seconds that open connections are waited for at the end: those of a page in a browser never close."""


class Server(uvicorn.Server):
    """Ends, too, when a script asks for a restart."""

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or shared.state.server_command is not None


def create_app() -> FastAPI:
    """The host's routes, those that extensions add, and last the page, which takes every other one."""
    app = FastAPI(title="ControlStack's embedded WebUI")
    for kind in (HTTPException, ControlError, Exception):
        app.add_exception_handler(kind, _failure)
    for module in (api_jobs, api_state, api_lists):
        app.include_router(module.ROUTER)
    app.add_api_route("/latest", _latest, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/outputs", StaticFiles(directory=default_output_dir, check_dir=False))
    if shared.cmd_opts.nowebui:
        app.add_api_route("/", _latest, include_in_schema=False, response_class=HTMLResponse)
        script_callbacks.app_started_callback(None, app)
    else:
        from controlstack.hosts.embedded import page

        blocks = page.build()
        script_callbacks.app_started_callback(blocks, app)
        app = page.mount(app, blocks)
    if shared.cmd_opts.api_auth:
        app.add_middleware(auth.BasicAuth, passwords=shared.cmd_opts.api_auth)
    return app


def create_server(port: int) -> uvicorn.Server:
    """The server, ready to `run`; Ctrl-C ends it when it runs in the main thread."""
    config = uvicorn.Config(create_app(), host=HOST, port=port, log_level="warning")
    config.timeout_graceful_shutdown = _PATIENCE
    return Server(config)


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"No port from {first} to {first + 99} is free")


def _failure(_: Request, error: Exception) -> JSONResponse:
    """Any failure in the shape that A1111's clients know."""
    told = vars(error)
    content: dict[str, Any] = {
        "error": type(error).__name__,
        "detail": told.get("detail", ""),
        "body": told.get("body", ""),
        "errors": str(error),
    }
    return JSONResponse(content, told.get("status_code", 500), told.get("headers"))


def _latest() -> str:
    return latest.html(shared.sd_model.name, default_output_dir)
