"""A page without any script: what this is, and the latest pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

_LATEST = 24
_STYLE = "body{font:16px sans-serif;margin:2em}img{max-width:256px}figure{display:inline-block;margin:4px}"


def html(model: str, outputs: str) -> str:
    """What this is, and the latest pictures of the output folder."""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ControlStack</title>
<style>{_STYLE}</style></head><body>
<h1>ControlStack's embedded WebUI</h1>
<p>A thin Stable Diffusion WebUI around diffusers' pipelines. It speaks A1111's HTTP API and runs ControlNet
as a script in every job. It paints with: {escape(model)}.</p>
<p><a href="/docs">All routes</a>. Ask for pictures with <code>POST /sdapi/v1/txt2img</code> and
<code>/sdapi/v1/img2img</code>; units go into <code>alwayson_scripts.ControlNet.args</code>.</p>
<h2>Latest pictures</h2>
{_figures(Path(outputs)) or "<p>None yet.</p>"}
</body></html>"""


def _figures(folder: Path) -> str:
    newest = sorted(folder.rglob("*.png"), key=lambda file: file.stat().st_mtime, reverse=True)
    names = (file.relative_to(folder).as_posix() for file in newest[:_LATEST])
    return "\n".join(_figure(f"/outputs/{quote(name)}", escape(name)) for name in names)


def _figure(address: str, name: str) -> str:
    picture = f'<a href="{address}"><img src="{address}" alt="{name}"></a>'
    return f"<figure>{picture}<figcaption>{name}</figcaption></figure>"
