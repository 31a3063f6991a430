"""The preview: exactly the map that the network will get, after resizing and cropping, computed as the job
would compute it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic

import numpy as np

from controlstack import geometry, image, plan, pose, preprocess
from controlstack.errors import ControlError
from controlstack.faces.ui import values as page
from controlstack.faces.ui.stock import Stock
from controlstack.faces.ui.values import Values
from controlstack.image import Array
from controlstack.layout import Base
from controlstack.log import log
from controlstack.preprocess import Preprocessor
from controlstack.sources import Job
from controlstack.unit import InputMode, ResizeMode, parse

LOOK_EVERY = 0.4
"""Seconds between two words about a run."""
_UNKNOWN = Base(width=0, context=None, vector=None, blocks=0)


@dataclass(frozen=True)
class Shown:
    """What the page says of a preview.

    map: uint8 "H W 3|4", None while there is none
    pose: JSON of the figures in it, as /controlnet/detect sends it, "" for a map without
    status: how far it is, or what it is
    mistake: why there is none
    done: nothing comes behind it
    """

    map: Array | None = None
    pose: str = ""
    status: str = ""
    mistake: str = ""
    done: bool = False


def run(values: Values, stock: Stock, size: tuple[int, int] | None) -> Iterator[Shown]:
    """Run the unit's preprocessor beside the page, and say now and then how far it is.

    size: px of the picture that the page would paint, width first; None where the page does not tell: then
        the map stays at the picture's own size
    """
    asked = _Asked(values, stock, size)
    begun = monotonic()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(_told, asked.compute)
        while not running.done():
            wait([running], timeout=LOOK_EVERY)
            if not running.done():
                yield Shown(status=asked.progress(monotonic() - begun))
    yield running.result()


def drawn(text: str, values: Values, size: tuple[int, int] | None) -> Shown:
    """The picture of a pose's JSON, resized as the unit says."""
    return _told(lambda: _draw(text, values, size))


def _told(compute: Callable[[], Shown]) -> Shown:
    try:
        return compute()
    except ControlError as error:
        return Shown(mistake=str(error).partition(": ")[2], done=True)
    except Exception as error:  # noqa: BLE001  preprocessors call much that is not ours
        log.exception("The preview failed")
        return Shown(mistake=f"The preview failed: {error or type(error).__name__}.", done=True)


class _Asked:
    """One run: what was asked for, and how far it is."""

    def __init__(self, values: Values, stock: Stock, size: tuple[int, int] | None) -> None:
        self.values, self.stock, self.size = values, stock, size
        self.preprocessor: Preprocessor | None = None
        self.has_lock = False

    def compute(self) -> Shown:
        unit = parse(page.unit({**self.values, "preview_as_input": False, "enabled": True}))
        if unit.input_mode is InputMode.BATCH:
            raise ControlError(
                "A batch has no preview", "Its pictures come one by one", "Put one of them under Single Image"
            )
        self.preprocessor = chosen = _chosen(unit.module, unit.model, self.stock)
        if not image.inputs(unit.image):
            raise ControlError(
                "There is no picture to preprocess",
                "The preview needs one in the unit itself",
                "Put a picture into the unit",
            )
        width, height = self.size or (0, 0)
        job = Job(width or 512, height or 512, self.stock.base() or _UNKNOWN)
        source, asks = plan.looks(unit, chosen, job)
        with self.stock.host.lock:
            self.has_lock = True
            rgb, ask = source.pictures[0].rgb, asks[0]
            detected = self.stock.host.cache.run(chosen, rgb, ask)
            figures = self.stock.host.cache.pose(chosen, rgb, ask) if chosen.pose else None
        text = json.dumps(pose.write(figures)) if figures else ""
        return _shown(detected, self.size, source.resize, chosen.label, text)

    def progress(self, seconds: float) -> str:
        """A sentence."""
        if self.preprocessor is None:
            return "Reading the picture…"
        if not self.has_lock:
            return "Waiting until the computer is free…"
        store = self.stock.host.cache.networks.store
        for file in self.preprocessor.files:
            if (fetched := store.fetched(file)) and not store.find(file):
                of = f" of {file.size / 1e6:.0f}" if file.size else ""
                return f"Downloading {file.name}: {fetched / 1e6:.0f}{of} MB…"
        return f"{self.preprocessor.label} is running, {seconds:.0f} s…"


def _chosen(module: str, model: str, stock: Stock) -> Preprocessor:
    found = preprocess.find(module)
    return plan.delegated(found, stock.match(model)) if found.delegates else found


def _shown(detected: Array, size: tuple[int, int] | None, mode: ResizeMode, label: str, text: str) -> Shown:
    fitted = detected if size is None else geometry.fit(detected, *size, mode)
    height, width = fitted.shape[:2]
    how = "as it is: the page does not tell its size" if size is None else f"after {mode.value}"
    status = f"{label}, {width}×{height}, {how}"
    return Shown(np.ascontiguousarray(image.shown(fitted)), text, status, done=True)


def _draw(text: str, values: Values, size: tuple[int, int] | None) -> Shown:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ControlError(
            "The pose is no JSON", str(error), "Give a file of OpenPose's or of a pose editor"
        ) from error
    figures = pose.parse(given[0] if isinstance(given, list) and given else given)
    mode = ResizeMode(values["resize_mode"])
    return _shown(pose.draw(figures), size, mode, "Pose", json.dumps(pose.write(figures)))


def download(text: str) -> str:
    """A link that saves a pose."""
    if not text:
        return ""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="pose.json" href="data:application/json;base64,{data}">JSON</a>'


def painted(width: float, height: float) -> tuple[int, int]:
    """The size that a job paints at: whole latent cells."""
    return max(int(width) // 8 * 8, 8), max(int(height) // 8 * 8, 8)
