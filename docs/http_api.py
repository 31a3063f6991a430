"""Writes `openapi.json` and `http-api.md` beside itself from the routes: python docs/http_api.py"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi

from controlstack.faces.api import ROUTER

HERE = Path(__file__).parent

_TOP = """# HTTP API

Written from the routes by `docs/http_api.py`. To generate, send units to the host's own routes, `/sdapi/v1`.

What a caller can mend is answered with status 422 and a sentence in `detail`. Where the host runs with
`--api-auth`, these routes want the same user and password (HTTP Basic). Pictures are base64 or data URIs;
paths and web addresses are not read.

On Forge and its kin, while their built-in ControlNet is enabled, it answers under `/controlnet`; the same
routes as here are then under `/controlstack`, and the units under the title `ControlStack` in
`alwayson_scripts`."""


def schema() -> dict[str, Any]:
    """The routes' OpenAPI schema, and which FastAPI made it: another one may word it differently."""
    app = fastapi.FastAPI(title="ControlNet", version="3")
    app.include_router(ROUTER, prefix="/controlnet")
    return app.openapi() | {"x-fastapi": ".".join(fastapi.__version__.split(".")[:2])}


def page(openapi: dict[str, Any]) -> str:
    """The schema as a page for people."""
    parts = [_TOP]
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            parts += [f"## {method.upper()} {path}", route["description"], *_table(openapi, route)]
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in body:
                parts += ["A body:", _block(body["example"])]
            parts += [
                "An answer:",
                _block(route["responses"]["200"]["content"]["application/json"]["example"]),
            ]
    return "\n\n".join(parts) + "\n"


def _table(openapi: dict[str, Any], route: dict[str, Any]) -> Iterator[str]:
    """Query parameters with their defaults, or the fields of the body."""
    for one in route.get("parameters", []):
        yield f"Query: `{one['name']}`, {json.dumps(one['schema']['default'])} if left out."
    if "DetectRequest" in json.dumps(route.get("requestBody")):
        fields = openapi["components"]["schemas"]["DetectRequest"]["properties"].items()
        rows = [
            f"| `{name}` | `{json.dumps(one.get('default'))}` | {one['description']} |"
            for name, one in fields
        ]
        yield "\n".join(["| field | if left out | what it is |", "|---|---|---|", *rows])


def _block(example: object) -> str:
    return f"```json\n{json.dumps(example)}\n```"


if __name__ == "__main__":
    made = schema()
    (HERE / "openapi.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (HERE / "http-api.md").write_text(page(made), encoding="utf-8")
