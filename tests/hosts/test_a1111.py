"""The adapter in a real A1111, asked over HTTP. `webui_server.py` says what it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_server import PHOTO, Host, difference, job, pixels, png, unit
from diffusers import ControlNetModel
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_hook
from webui_server import ABSENT, DIR, URL, running, serving

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]

SIZE, STEPS = 128, 4
JOB = dict(width=SIZE, height=SIZE, steps=STEPS, cfg_scale=7)
HIRES = dict(
    enable_hr=True,
    hr_scale=1.5,
    hr_upscaler="Latent",
    denoising_strength=0.85,
    hr_additional_modules=["Use same choices"],
)
"""Forge's API fails without the last, which A1111 does not know."""
CONTROL = "ControlNet is more important"
"""Acts on the rows of the positive prompt alone, so that a picture shows who is taken for whom."""
EVALUATIONS = {
    **dict.fromkeys(("Euler", "DPM++ 2M", "LMS", "DPM fast", "LCM"), 6),
    **dict.fromkeys(("Heun", "DPM2", "DPM++ SDE", "DPM++ 2S a", "Restart"), 11),
    "DDIM": 6,
    "PLMS": 7,
    "UniPC": 7,
}
"""Of 6 steps. Heun's kind evaluates twice in all but the last; DDIM's gets 7 timesteps, 1000 // 6 apart."""


class Client:
    """The WebUI, asked for pictures of `JOB`."""

    def __init__(self, host: Host) -> None:
        self.host, self.watch = host, host.watch

    def ask(self, *units: Any, route: str = "txt2img", **fields: Any) -> Any:
        return self.host.post(f"/sdapi/v1/{route}", job(*units, **{**JOB, **fields}))

    def pictures(self, *units: Any, **fields: Any) -> list[NDArray[np.uint8]]:
        answer = self.ask(*units, **fields)
        assert answer.status_code == 200, answer.text
        shown = [pixels(picture) for picture in answer.json()["images"]]
        assert all(picture.std() > 2 for picture in shown[:1]), "a flat picture tests nothing"
        return shown

    def models(self) -> list[str]:
        return self.host.session.get("/controlnet/model_list").json()["model_list"]

    def set(self, **options: Any) -> None:
        assert self.host.post("/sdapi/v1/options", options).status_code == 200


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("webui") / "data") as serves:
        client = Client(serves)
        if client.watch().get("forge"):
            pytest.skip("this WebUI is of the Forge family: test_forge.py")
        yield client


@pytest.fixture(scope="module")
def plain(host: Client) -> NDArray[np.uint8]:
    return host.pictures()[0]


@pytest.fixture(autouse=True)
def nothing_is_left(host: Client) -> Iterator[None]:
    """After every test of this file: the UNet has the hooks that it had, and nobody hears the denoiser."""
    before = host.watch()
    yield
    after = host.watch()
    assert (after["hooks"], after["callbacks"]) == (before["hooks"], before["callbacks"])


def test_pictures_are_the_same_to_the_bit_without_the_extension(host: Client, tmp_path: Path) -> None:
    """After jobs that were controlled, failed and interrupted, too."""
    plain: dict[str, dict[str, Any]] = {
        "AND and emphasis": dict(prompt="a (red:1.3) house AND grass :0.6"),
        "two batches of two": dict(batch_size=2, n_iter=2),
        "hires fix": HIRES,
        "img2img": painting(),
        "Euler a": dict(sampler_name="Euler a"),
    }
    host.pictures(unit(), **HIRES)
    assert host.ask(unit(), prompt="fail in the UNet").status_code == 500
    host.pictures(unit(), prompt="interrupt me", steps=8)
    with serving(tmp_path / "bare", extensions=()) as bare:
        assert "controlnet" not in bare.session.get("/sdapi/v1/scripts").json()["txt2img"]
        for name, asked in plain.items():
            ours = host.pictures(**asked, alwayson_scripts={})
            theirs = bare.pictures(**{**JOB, **asked}, alwayson_scripts={})
            assert len(ours) == len(theirs)
            assert all(map(np.array_equal, ours, theirs)), name


def test_units_change_the_picture_and_show_their_maps(host: Client, plain: NDArray[np.uint8]) -> None:
    one, canny = host.pictures(unit())
    assert host.watch()["network_calls"] == STEPS
    both, canny_again, blur = host.pictures(unit(), unit(module="blur_gaussian", model="net1"))
    assert host.watch()["network_calls"] == 2 * STEPS
    assert difference(one, plain) >= 3
    assert difference(both, one) >= 3
    assert np.array_equal(canny, canny_again)
    assert set(np.unique(canny)) == {0, 255}
    assert blur.shape == canny.shape == (SIZE, SIZE, 3)
    assert np.array_equal(host.pictures()[0], plain)


@pytest.mark.parametrize(
    "still",
    [
        dict(weight=0),
        dict(guidance_start=0.9, guidance_end=0.95),
        dict(effective_region_mask=png(np.zeros((64, 64), np.uint8))),
        dict(enabled=False),
    ],
    ids=["weight 0", "outside the window", "empty region", "disabled"],
)
def test_what_must_not_act_changes_no_bit(
    host: Client, plain: NDArray[np.uint8], still: dict[str, object]
) -> None:
    assert np.array_equal(host.pictures(unit(**still))[0], plain)
    assert host.watch()["network_calls"] == 0


def test_units_beyond_the_tabs_count_and_too_many_are_said(host: Client) -> None:
    five = host.pictures(*[unit(weight=0.2)] * 5)
    assert host.watch()["network_calls"] == 5 * STEPS
    assert len(five) == 6
    answer = host.ask(*[unit(weight=0)] * 11)
    assert answer.status_code == 500
    assert "At most 10" in answer.text


def test_a_region_holds(host: Client, plain: NDArray[np.uint8]) -> None:
    """Control in the left half: the right one changes less, as far as the UNet looks over the border."""
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    picture = host.pictures(unit(effective_region_mask=png(half)), steps=1)[0]
    bare = host.pictures(steps=1)[0]
    inside, outside = (difference(picture[:, side], bare[:, side]) for side in (slice(0, 32), slice(96, 128)))
    assert inside > 2 * outside


def test_modes_and_the_rows_they_act_on(host: Client, plain: NDArray[np.uint8]) -> None:
    shown = {}
    for mode, rows in (("Balanced", 2), ("My prompt is more important", 2), (CONTROL, 1)):
        shown[mode] = host.pictures(unit(control_mode=mode))[0]
        assert host.watch()["rows"] == [rows] * STEPS
    assert difference(shown["Balanced"], shown[CONTROL]) > 1
    assert 0 < difference(shown["My prompt is more important"], plain) < difference(shown["Balanced"], plain)


PROMPTS = {
    "one prompt": {},
    "AND": dict(prompt="a house AND a red door :0.6 AND grass"),
    "unequal lengths": dict(prompt="a house, " * 40),
    "negative is longer": dict(negative_prompt="dark, " * 60),
    "AND in a batch": dict(prompt="a house AND a red door", batch_size=2),
}


@pytest.mark.parametrize("asked", PROMPTS.values(), ids=PROMPTS.keys())
def test_rows_are_known_however_the_host_cuts_them(host: Client, asked: dict[str, Any]) -> None:
    """All rows at once, or in slices of the number of pictures: the picture is the same, the sums are
    rounded otherwise."""
    together = host.pictures(unit(control_mode=CONTROL), **asked)[0]
    acted = sum(host.watch()["rows"])
    apart = host.pictures(
        unit(control_mode=CONTROL), **asked, override_settings=dict(batch_cond_uncond=False)
    )[0]
    assert sum(host.watch()["rows"]) == acted
    conds = asked.get("prompt", "").count("AND") + 1
    assert acted == STEPS * conds * asked.get("batch_size", 1)
    assert np.abs(together.astype(int) - apart).max() <= 1
    assert difference(together, host.pictures(**asked)[0]) >= 2


def test_skipped_negatives(host: Client) -> None:
    """`s_min_uncond` leaves the negative rows out at low noise, in every second step."""
    host.pictures(unit(), s_min_uncond=4.0, steps=6)
    rows = host.watch()["rows"]
    assert set(rows) == {1, 2}
    host.pictures(unit(), steps=6, override_settings=dict(skip_early_cond=0.5))
    assert host.watch()["rows"] == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("sampler", "evaluations"), EVALUATIONS.items(), ids=EVALUATIONS.keys())
def test_a_window_is_a_share_of_what_a_sampler_really_evaluates(
    host: Client, sampler: str, evaluations: int
) -> None:
    """Evaluation i of N acts iff i/N >= start and (i+1)/N <= end: in the first half that are N // 2."""
    host.pictures(unit(guidance_end=0.5), sampler_name=sampler, steps=6)
    seen = host.watch()
    assert (seen["unet_calls"], seen["network_calls"]) == (evaluations, evaluations // 2)


LATE = {"control_net_late_window": True}


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "Heun"])
def test_a_late_window_is_the_incumbents(host: Client, sampler: str) -> None:
    """It acts iff start <= what the host's step counter says, a step late, <= end. Heun's second half of a
    step is called when the step has been counted."""
    steps, start, end = 6, 0.25, 0.5
    host.pictures(
        unit(guidance_start=start, guidance_end=end),
        sampler_name=sampler,
        steps=steps,
        override_settings=LATE,
    )
    first = [max(i - 1, 0) for i in range(steps)]
    counter = sorted([*first, *range(steps - 1)]) if sampler == "Heun" else first
    seen = host.watch()
    assert seen["unet_calls"] == len(counter)
    assert seen["network_calls"] == sum(start <= at / steps <= end for at in counter)


def test_an_adaptive_sampler_has_a_window_too(host: Client) -> None:
    host.pictures(unit(guidance_end=0.5), sampler_name="DPM adaptive")
    seen = host.watch()
    assert 0.2 < seen["network_calls"] / seen["unet_calls"] < 0.8


def test_hires_fix_runs_a_unit_in_the_passes_it_names(host: Client) -> None:
    for option, passes in (("Both", 2), ("Low res only", 1), ("High res only", 1)):
        host.watch()
        _, *maps = host.pictures(unit(hr_option=option), **HIRES)
        assert host.watch()["network_calls"] == passes * STEPS, option
        assert [m.shape[:2] for m in maps] == [(192, 192), (SIZE, SIZE)]


def test_hires_of_another_shape(host: Client) -> None:
    """One side given: the other follows the first pass. Both given: the second pass is cut."""
    wide = dict(width=160, height=96) | HIRES
    for asked, shape in (
        (dict(hr_resize_x=240), (144, 240)),
        (dict(hr_resize_y=120), (120, 200)),
        (dict(hr_resize_x=192, hr_resize_y=192), (192, 192)),
    ):
        picture, large, small = host.pictures(unit(), **wide, **asked)
        assert picture.shape[:2] == large.shape[:2] == shape
        assert small.shape[:2] == (96, 160)


def test_a_second_pass_of_less_noise_has_a_whole_window_of_its_own(host: Client) -> None:
    host.pictures(
        unit(hr_option="High res only", guidance_end=0.5), **(HIRES | dict(denoising_strength=0.5)), steps=8
    )
    seen = host.watch()
    second = seen["unet_calls"] - 8
    assert seen["network_calls"] == second // 2 > 0


def test_batches_are_the_same_pictures_with_one_map(host: Client) -> None:
    several = host.pictures(unit(), batch_size=2, n_iter=2)
    assert len(several) == 4 + 1
    for i, picture in enumerate(several[:4]):
        assert np.abs(picture.astype(int) - host.pictures(unit(), seed=1 + i)[0]).max() <= 1


def painting(**fields: Any) -> dict[str, Any]:
    return dict(route="img2img", init_images=[PHOTO], denoising_strength=0.75) | fields


def hole(**fields: Any) -> dict[str, Any]:
    mask = np.zeros((256, 256), np.uint8)
    mask[64:128, 96:192] = 255
    return painting(mask=png(mask), inpaint_full_res_padding=16, **fields)


def test_img2img_lends_its_picture(host: Client) -> None:
    bare = host.pictures(**painting())[0]
    lent, canny = host.pictures(unit(image=None), **painting())
    own = host.pictures(unit(resize_mode="Just Resize"), **painting())[0]
    assert difference(lent, bare) >= 2
    assert set(np.unique(canny)) == {0, 255}
    assert np.array_equal(lent, own)


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("only_masked", [False, True])
def test_inpainting(host: Client, only_masked: bool, inverted: int) -> None:
    asked = hole(inpaint_full_res=only_masked, inpainting_mask_invert=inverted, mask_blur=4)
    bare, controlled = host.pictures(**asked)[0], host.pictures(unit(image=None), **asked)[0]
    assert controlled.shape == bare.shape
    assert difference(controlled, bare) > 0.2
    assert host.watch()["network_calls"] == STEPS  # int(0.75 * 4) + 1


def test_upscaling_in_tiles(host: Client) -> None:
    """The host's SD upscale paints its tiles as img2img jobs, here four, each a job for the units."""
    asked = painting(script_name="sd upscale", script_args=[None, 64, "None", 1.0], denoising_strength=0.3)
    host.pictures(unit(image=None, weight=0.5), **asked)
    seen = host.watch()
    assert seen["network_calls"] == seen["unet_calls"] >= 4


def test_loopback(host: Client) -> None:
    asked = painting(script_name="loopback", script_args=[2, 0.5, "Linear", "None"])
    host.pictures(unit(image=None), **asked)
    seen = host.watch()
    assert seen["network_calls"] == seen["unet_calls"] > STEPS


def test_a_job_inside_a_job_leaves_the_outer_one_its_control(host: Client) -> None:
    """The inner one runs between two batches of the outer; both have units."""
    outer = host.pictures(unit(), prompt="a job inside", n_iter=2)
    seen = host.watch()
    assert seen["network_calls"] == 4 * STEPS
    alone = host.pictures(unit(), prompt="a job insid\u200be", n_iter=2)
    assert len(outer) == len(alone) == 3


def test_a_failure_in_the_unet_is_told_and_leaves_nothing(host: Client, plain: NDArray[np.uint8]) -> None:
    answer = host.ask(unit(), prompt="fail in the UNet")
    assert answer.status_code == 500
    assert "says the watch" in answer.text
    assert np.array_equal(host.pictures()[0], plain)


def test_an_interrupted_job_leaves_nothing(host: Client, plain: NDArray[np.uint8]) -> None:
    host.pictures(unit(), prompt="interrupt me", steps=8)
    assert host.watch()["unet_calls"] == 2
    assert np.array_equal(host.pictures()[0], plain)


MISTAKES = {
    "unknown model": (unit(model="nothing like it"), "no control model called 'nothing like it'"),
    "unknown preprocessor": (unit(module="cany"), "no preprocessor called 'cany'"),
    "no picture": (unit(image=None), "has no picture"),
    "another base": (unit(model="other"), "does not fit the checkpoint"),
    "too heavy": (unit(weight=3), "weight is 3"),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_said(host: Client, plain: NDArray[np.uint8], wrong: object, sentence: str) -> None:
    answer = host.ask(unit(), wrong)
    assert answer.status_code == 500
    assert "ControlNet unit 1: " in answer.text
    assert sentence in answer.text
    assert np.array_equal(host.pictures()[0], plain)


def checkpoints(host: Client) -> list[str]:
    current = host.host.session.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    titles = [model["title"] for model in host.host.session.get("/sdapi/v1/sd-models").json()]
    return [title for title in titles if title.split(" [")[0] != current.split(" [")[0]]


def test_every_checkpoint_is_controlled_or_says_why_not(host: Client, plain: NDArray[np.uint8]) -> None:
    """Inpaint, edit, depth, v-prediction, SD2, SDXL: whatever lies in the folder, and a control file for it.

    Depth and edit checkpoints need a picture to begin with.
    """
    others = checkpoints(host)
    if not others:
        pytest.skip("this WebUI has one checkpoint")
    controlled = []
    for title in others:
        for route in ({}, painting()):
            asked = _with(title) | route
            bare = host.ask(**asked)
            if bare.status_code != 200:
                assert not route
                continue
            bare = host.ask(**asked)  # A1111 draws its noise otherwise while it loads a checkpoint
            host.watch()
            for net in ("net0", "sd2", "sdxl"):
                answer = host.ask(unit(model=net), **asked)
                if answer.status_code == 200:
                    pictures = (pixels(one.json()["images"][0]) for one in (answer, bare))
                    assert difference(*pictures) >= 1, title
                    assert host.watch()["network_calls"] == STEPS, title
                    controlled.append((title, *route))
                else:
                    assert "does not fit the checkpoint" in answer.text, title
            assert host.ask(**asked).json()["images"] == bare.json()["images"], title
    print("controlled:", *(" ".join(one[:2]) for one in controlled), sep="\n  ")
    assert controlled
    assert np.array_equal(host.pictures()[0], plain)


def test_a_refiner_of_the_same_kind_is_controlled_too(host: Client) -> None:
    def fits(title: str) -> bool:
        """As a checkpoint of a unit's kind, and as a refiner, which those with more channels cannot be."""
        refining = dict(refiner_checkpoint=title, refiner_switch_at=0.5)
        jobs = (host.ask(unit(weight=0), **_with(title)), host.ask(**refining))
        return all(answer.status_code == 200 for answer in jobs)

    fit = next(filter(fits, checkpoints(host)), None)
    if fit is None:
        pytest.skip("this WebUI has no second checkpoint of the same kind")
    host.pictures()  # the first checkpoint is back
    host.watch()
    host.pictures(unit(), refiner_checkpoint=fit, refiner_switch_at=0.5)
    seen = host.watch()
    assert seen["network_calls"] == seen["unet_calls"] == STEPS
    host.pictures(unit(), **HIRES, hr_checkpoint_name=fit)
    seen = host.watch()
    assert seen["network_calls"] == seen["unet_calls"] == 2 * STEPS


def _with(title: str) -> dict[str, Any]:
    return dict(override_settings=dict(sd_model_checkpoint=title))


@torch.no_grad()
def test_one_call_of_its_unet_equals_the_embedded_hosts(host: Client) -> None:
    """The same x, t, context and map: LDM's UNet inside A1111 against diffusers' UNet with the same
    weights, in what the ControlNet gives and in what comes out."""
    from controlstack import preprocess
    from controlstack.catalog import Catalog
    from controlstack.hosts import unet_diffusers
    from controlstack.hosts.embedded import single_file
    from controlstack.joints import Call
    from controlstack.plan import resolve
    from controlstack.session import Session
    from controlstack.sources import Job
    from controlstack.unit import parse
    from controlstack.weights import Loaded

    asked = unit(control_mode="My prompt is more important")
    picture = host.pictures(asked, prompt="record me")[0]
    assert picture.shape[0] == SIZE
    call, output, theirs = (
        torch.load(host.host.folder / f"{name}.pt") for name in ("call", "output", "control0")
    )
    file = host.host.session.get("/sdapi/v1/sd-models").json()
    current = host.host.session.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    path = next(Path(m["filename"]) for m in file if m["title"].split(" [")[0] == current.split(" [")[0])
    unet = single_file.load(path)[0]["unet"].eval()
    bare = unet(call["x"], call["timesteps"], call["context"]).sample
    session = Session(Loaded(), preprocess.Cache())
    folder = Catalog([host.host.folder / "controls"])
    session.plans = [resolve(0, parse(asked), Job(SIZE, SIZE, unet_diffusers.base_of(unet)), folder)]
    session.prepare()
    session.begin(SIZE, SIZE, unet_diffusers.LiveUNet(unet), hires=False)

    def on_call(*inputs: Any) -> Any:
        *tensors, shadow = inputs
        return session.step(Call(*tensors, rows=unet_diffusers.rows(2, 1), shadow=shadow))

    residuals: dict[str, torch.Tensor] = {}

    def keep(module: Any, _: Any, answer: Any) -> None:
        if isinstance(module, ControlNetModel):
            residuals.update({f"skip {i}": skip for i, skip in enumerate(answer[0])}, middle=answer[1])

    with register_module_forward_hook(keep), unet_diffusers.attach(unet, on_call, session.joints):
        ours = unet(call["x"], call["timesteps"], call["context"]).sample
    apart = {name: float((found - theirs[name]).abs().max()) for name, found in residuals.items()}
    print(f"residuals {max(apart.values()):.1e} apart, outputs {(ours - output).abs().max():.1e}")
    assert len(apart) == 13
    assert max(apart.values()) < 1e-4
    assert (ours - bare).abs().max() > 0.05
    assert (ours - output).abs().max() < 1e-4


def test_what_runs_in_the_unets_place_is_told(host: Client, plain: NDArray[np.uint8]) -> None:
    """TensorRT and its like take the UNet's place by a setting."""
    host.set(sd_unet="Engine of the tests")
    try:
        answer = host.ask(unit())
        assert host.ask().status_code == 200
    finally:
        host.set(sd_unet="Automatic")
    assert answer.status_code == 500
    assert "Engine of the tests runs in place of the checkpoint's" in answer.text
    assert "Set 'SD Unet' to None" in answer.text
    assert np.array_equal(host.pictures()[0], plain)


def test_the_infotext_and_the_comment_name_what_went_on(host: Client) -> None:
    info = json.loads(host.ask(unit(guidance_start=0.9, guidance_end=0.95)).json()["info"])
    assert "unit 0 had no effect" in json.dumps(info)
    assert "ControlNet 0" in info["infotexts"][0]
