"""What all WebUIs share: reading the host's job, running a session through its hooks, and giving everything
back."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from controlstack import downloads, geometry, image, plan, preprocess
from controlstack.batches import Series
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.hosts import detected_maps
from controlstack.image import Array, Picture
from controlstack.joints import Services
from controlstack.layout import Base
from controlstack.log import log
from controlstack.networks import Networks, Room
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import ControlNetUnit, ResizeMode, infotext, parse
from controlstack.weights import Loaded

MAX_UNITS = 10
CONTINUE_WITHOUT_CONTROL = "control_net_continue_without_control"
"""The setting with which a job whose unit fails paints on; it is off."""
LATE_WINDOW = "control_net_late_window"
"""The setting with which units begin and end as in the incumbent; it is off."""
_SESSION, _SERIES = "controlstack_session", "controlstack_series"


class WebUI(ABC):
    """One running host. The script's hooks call the methods of the same meaning; `p` is the host's job.

    name: the script's title, and how its routes and infotexts begin
    beside_builtin: whether the host's own ControlNet is there too, and keeps these names
    """

    name = "ControlNet"
    beside_builtin = False

    def __init__(self) -> None:
        self.models = Loaded(int(self.option("control_net_model_cache_size", 2)))
        self.cache = preprocess.Cache(self.flag("controlnet_preprocessor_cache_size"), self._networks())
        self.catalog = Catalog(self.model_folders())
        self._hooks = ExitStack()

    @abstractmethod
    def option(self, key: str, default: object) -> Any:
        """A setting of the host's, also before its settings page exists."""

    @abstractmethod
    def flag(self, key: str) -> Any:
        """A command-line flag of the host's, None where it has none."""

    @abstractmethod
    def model_folders(self) -> Sequence[Path]:
        """Where control models lie; the first folder wins."""

    def models_path(self) -> Path | None:
        """The host's folder of models, None where it has none."""
        return None

    def data_path(self) -> Path | None:
        """Where the host keeps its user's settings, None where it keeps none."""
        return None

    def checkpoint(self) -> Any:
        """The checkpoint that is loaded now, None for none. Asking loads nothing."""
        return None

    def device(self) -> torch.device | None:
        """Where the networks of preprocessors run; None takes the first graphics card there is."""
        return None

    def telling(self) -> AbstractContextManager[object]:
        """While it is open, the host's page shows what `progress` tells."""
        return nullcontext()

    def room(self) -> Room | None:
        """What has the host move its own networks off the device; None where nothing needs to."""
        return None

    @property
    @abstractmethod
    def lock(self) -> AbstractContextManager[Any]:
        """Held by whoever computes, one at a time."""

    @abstractmethod
    def base(self, p: Any) -> Base:
        """What the live UNet is."""

    @abstractmethod
    def services(self, p: Any) -> Services:
        """The live UNet's device, dtype and weights."""

    @abstractmethod
    def attach(self, p: Any, session: Session) -> ExitStack:
        """Have every UNet call of the coming pass ask `session.step`; closing the stack undoes it."""

    def _networks(self) -> Networks:
        """Where preprocessors get theirs: from a folder that the user names, or from the usual ones."""
        named = (
            self.flag("controlnet_preprocessor_models_dir"),
            self.flag("controlnet_annotator_models_path"),
            self.option("control_net_modules_path", ""),
        )
        chosen = next((Path(folder) for folder in named if folder), None)
        models = self.models_path()
        store = downloads.Store(downloads.folders(models, chosen)) if models else None
        return Networks(store, self.device(), room=self.room())

    def before_process(self, p: Any, values: Sequence[object]) -> None:
        """Have the host paint a job as often as the units' folders have pictures."""
        _count_once(p)
        try:
            series = Series(_enabled(values), p.n_iter)
            p.n_iter *= series.rounds
        except ControlError:  # hosts swallow it here; `process` meets it again, and keeps it
            return
        setattr(p, _SERIES, series)

    def process(self, p: Any, values: Sequence[object]) -> None:
        """Resolve the units of a new job. What goes wrong is kept: hosts swallow what this hook raises."""
        self.release()
        self._release_with(p)
        session = Session(self.models, self.cache)
        setattr(p, _SESSION, session)
        try:
            announced = getattr(p, _SERIES, None)
            series = Series(_enabled(values), announced.batches if announced else p.n_iter)
            setattr(p, _SERIES, series)
            if series.rounds > 1 and not self.option("controlnet_increment_seed_during_batch", default=False):
                _repeat_seeds(p, series)
            self._resolve(p, session, series, 0)
        except Exception as error:  # noqa: BLE001  kept, and raised at the first UNet call
            self._fail(p, session, error)
        for resolved in session.plans:
            text = infotext(resolved.unit)
            p.extra_generation_params[f"{self.name} {resolved.index}"] = text
            log.info("Unit %d: %s", resolved.index, text)
            for lora in {match.lora for match in resolved.matches if match.lora} - _loras(p):
                self._say(p, f"Unit {resolved.index}: {_BESIDE.format(lora=lora)}")

    def _resolve(self, p: Any, session: Session, series: Series, turn: int) -> None:
        session.turn = turn
        if series.units:
            job = self._job(p)
            session.plans = [plan.resolve(i, unit, job, self.catalog) for i, unit in series.at(turn)]
            with self.telling():
                session.prepare()

    def before_sampling(self, p: Any, x: Tensor, noise: Tensor) -> None:
        """Start a sampling pass on latents "B C h w", with noise of the same shape and spread 1, which
        controls may change in place. Idempotent: some hosts announce a pass twice."""
        self.release()
        self.cache.networks.rest()  # a preview may have left one, also before a job without units
        session = _session(p)
        if session is None or not (session.plans or session.failure):
            return
        try:
            series, turn = _turn(p)
            if turn != session.turn and session.failure is None:
                self._save_maps(p, session)
                self._resolve(p, session, series, turn)
            if session.failure is None:
                session.begin(x.shape[-1] * 8, x.shape[-2] * 8, self.services(p), hires=_is_hires(p))
                if (changed := session.start(noise)) is not noise:
                    noise.copy_(changed)
        except Exception as error:  # noqa: BLE001  kept, and raised at the first UNet call
            self._fail(p, session, error)
        if session.failure is None or not self.option(CONTINUE_WITHOUT_CONTROL, default=False):
            self._hooks = self.attach(p, session)

    def pictures(self, p: Any, pictures: list[Tensor]) -> None:
        """Let controls change the decoded pictures of a batch in place, each "3 H W", 0..1."""
        session = _session(p)
        if session is None or session.failure is not None:
            return
        try:
            pictures[:] = [session.picture(picture, index) for index, picture in enumerate(pictures)]
            series, turn = _turn(p)
            if pictures:
                series.keep(turn, image.from_tensor(pictures[0]))
        except Exception as error:  # noqa: BLE001  said with the pictures: hosts swallow what this hook raises
            self._fail(p, session, error)

    def postprocess(self, p: Any, processed: Any) -> None:
        """End a job: hand over the detected maps, say which unit never acted, and let go."""
        self.release()
        session = _session(p)
        if session is None:
            return
        for sentence in session.close():
            self._say(p, sentence)
        delattr(p, _SESSION)
        self._save_maps(p, session)
        series, _ = _turn(p)
        if series.rounds > 1:
            series.save(processed.images[getattr(processed, "index_of_first_image", 0) :])
        elif not self.option("control_net_no_detectmap", default=False):
            processed.images.extend(picture for _, picture in _maps(session))
        _count_once(p)

    def _save_maps(self, p: Any, session: Session) -> None:
        if self.option("control_net_detectmap_autosaving", default=False):
            folder = self.option("control_net_detectedmap_dir", "detected_maps")
            detected_maps.save(p, folder, _maps(session))

    def release(self) -> None:
        """Take every hook out of the UNet. Safe at any time, and done again before every job and pass."""
        self._hooks.close()

    def _release_with(self, p: Any) -> None:
        """Hosts close a job even when it failed, and then call no other hook."""
        p.close = _Close(self, p)

    def _say(self, p: Any, sentence: str) -> None:
        log.warning(sentence)
        p.comment(sentence)

    def _fail(self, p: Any, session: Session, error: Exception) -> None:
        session.fail(error)
        p.comment(str(error))
        p.extra_generation_params[f"{self.name} error"] = str(error)

    def _job(self, p: Any) -> Job:
        width, height = _size(p)
        return Job(
            width=width,
            height=height,
            base=self.base(p),
            hires=bool(getattr(p, "enable_hr", False)),
            seed=_seed(p),
            unprompted=not any(text.strip() for text in (*p.all_prompts, *p.all_negative_prompts)),
            init=_init_picture(p),
            init_resize=_resize_mode(p),
            only_masked=p.inpaint_full_res_padding if getattr(p, "inpaint_full_res", False) else None,
        )


class _Close:
    """Stands for a job's `close` until it is called once, then for nothing.

    Jobs are processed again and copied, with their attributes: what an earlier one had replaced counts.
    """

    def __init__(self, host: WebUI, p: Any) -> None:
        replaced = vars(p).get("close")
        self._before: Any = replaced._before if isinstance(replaced, _Close) else replaced
        self._host, self._p = host, p

    def __call__(self) -> None:
        self._host.release()
        vars(self._p).pop("close", None)
        if self._before is not None:
            self._p.close = self._before
        self._p.close()


_BESIDE = (
    "the model was trained with the LoRA {lora}, and knows people less well without it. "
    "Put <lora:{lora}:0.6> into the prompt."
)


def _loras(p: Any) -> set[str]:
    """The LoRAs that the prompt names."""
    return {name for prompt in p.all_prompts for name in re.findall(r"<lora:([^:>]+)", prompt)}


def _maps(session: Session) -> list[tuple[str, Image.Image]]:
    """The detected maps to hand over, each with its preprocessor's name."""
    return [
        (resolved.preprocessor.name, Image.fromarray(image.shown(m)))
        for resolved in session.plans
        if resolved.unit.save_detected_map
        for m in session.maps(resolved.index)
    ]


def _turn(p: Any) -> tuple[Series, int]:
    """The job's series, and the round that its present batch belongs to."""
    series: Series = getattr(p, _SERIES)
    return series, getattr(p, "iteration", 0) // series.batches


def _count_once(p: Any) -> None:
    """Take back what a series did to the number of batches: jobs are processed again."""
    series = vars(p).pop(_SERIES, None)
    if series is not None and p.n_iter == series.batches * series.rounds:
        p.n_iter = series.batches


def _repeat_seeds(p: Any, series: Series) -> None:
    """Every round starts from the same noise."""
    first = slice(series.batches * p.batch_size)
    p.all_seeds = p.all_seeds[first] * series.rounds
    p.all_subseeds = p.all_subseeds[first] * series.rounds


def _session(p: Any) -> Session | None:
    return getattr(p, _SESSION, None)


def _is_hires(p: Any) -> bool:
    return bool(getattr(p, "is_hr_pass", False))


def _enabled(values: Sequence[object]) -> list[tuple[int, ControlNetUnit]]:
    units = []
    for index, value in enumerate(values):
        try:
            if _switched_off(value):
                continue
            unit = parse(value)
        except ControlError as error:
            raise error.in_unit(index) from error
        if unit.enabled:
            units.append((index, unit))
    if len(units) > MAX_UNITS:
        raise ControlError(
            f"{len(units)} units are enabled", f"At most {MAX_UNITS} can be stacked", "Disable some"
        )
    return units


def _switched_off(value: object) -> bool:
    """Whether a unit says that it is off; then its other fields may say what they like."""
    said = value.get("enabled") if isinstance(value, Mapping) else getattr(value, "enabled", None)
    return said is not None and not parse({"enabled": said}).enabled


def _seed(p: Any) -> int:
    """The seed of what is drawn at random: the sum of seed and subseed, as the incumbent's.

    Some hosts draw a subseed where nobody asked for a variation; it does not count, and the sum is what the
    incumbent makes of subseed -1.
    """
    first = int(p.all_seeds[0])
    given = [s[0] if isinstance(s, list) else s for s in (p.seed, p.subseed)]
    if not p.subseed_strength:
        given[1] = -1
    return sum(first if s == -1 else max(int(s), 0) for s in given) & 0xFFFFFFFF


def _size(p: Any) -> tuple[int, int]:
    """Width and height of the first pass: hosts round down to whole latent cells."""
    return p.width // 8 * 8, p.height // 8 * 8


def _resize_mode(p: Any) -> ResizeMode:
    """How the host fits an init picture."""
    return ResizeMode(getattr(p, "resize_mode", None) or 0)


def _init_picture(p: Any) -> Picture | None:
    """img2img's first picture and the mask as the host will use it: binary, inverted and blurred on
    demand."""
    pictures = getattr(p, "init_images", None)
    if not pictures or pictures[0] is None:
        return None
    rgb = image.hwc3(np.asarray(pictures[0].convert("RGBA")))
    mask = getattr(p, "image_mask", None)
    return Picture(rgb) if mask is None else _aligned(p, rgb, _prepared(p, mask))


def _aligned(p: Any, rgb: Array, mask: Array) -> Picture:
    """A picture and a mask of another size as the host brings them together.

    Where it paints only the masked region, it cuts the same px out of both; else it fits each to the job.
    """
    height, width = mask.shape
    if rgb.shape[:2] == (height, width):
        return Picture(rgb, mask)
    if p.inpaint_full_res and mask.any():
        return Picture(np.asarray(Image.fromarray(rgb).crop((0, 0, width, height))), mask)
    fitted = (*_size(p), _resize_mode(p))
    return Picture(geometry.resample(rgb, *fitted), geometry.resample(mask[..., None], *fitted)[..., 0])


def _prepared(p: Any, mask: Image.Image) -> Array:
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        mask = mask.getchannel("A").point(lambda v: 255 if v > 128 else 0)
    mask = mask.convert("L")
    if p.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    blurred = np.asarray(mask)
    for sigma, across in ((p.mask_blur_x, True), (p.mask_blur_y, False)):
        if sigma > 0:
            kernel = 2 * int(2.5 * sigma + 0.5) + 1
            blurred = cv2.GaussianBlur(blurred, (kernel, 1) if across else (1, kernel), sigma)
    return blurred
