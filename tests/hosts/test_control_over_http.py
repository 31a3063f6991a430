"""The extension in a running host, asked as programs ask it. What a picture shows is asserted on pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import nets
import numpy as np
import pytest
from control_server import PHOTO, Host, difference, job, pixels, png, serving, unit
from numpy.typing import NDArray
from PIL import Image
from skimage import data

SIZE, STEPS = 128, 4
JOB = dict(width=SIZE, height=SIZE, steps=STEPS)
HIRES = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.85)


class Client:
    """The host, asked for pictures of `JOB`."""

    def __init__(self, host: Host) -> None:
        self.host, self.watch = host, host.watch

    def post(self, units: list[Any], **fields: Any) -> Any:
        return self.host.post("/sdapi/v1/txt2img", job(*units, **JOB, **fields))

    def pictures(self, *units: Any, **fields: Any) -> list[NDArray[np.uint8]]:
        return self.host.pictures(*units, **JOB, **fields)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("host")
    models = folder / "models" / "ControlNet"
    models.mkdir(parents=True)
    nets.save(models / "other.safetensors", nets.controlnet(nets.SDXL).state_dict())
    (models / "broken.safetensors").write_bytes(b"not a model")
    with serving(folder) as serves:
        yield Client(serves)


@pytest.fixture(scope="module")
def plain(host: Client) -> NDArray[np.uint8]:
    return host.pictures()[0]


@pytest.fixture(autouse=True)
def nothing_is_left(host: Client) -> Iterator[None]:
    """After every test of this file: no hook on the UNet."""
    host.watch()
    yield
    assert host.watch()["hooks"] == 0


def test_two_stacked_units_change_the_picture_and_show_their_maps(
    host: Client, plain: NDArray[np.uint8]
) -> None:
    one, canny = host.pictures(unit())
    assert host.watch()["network_calls"] == STEPS
    both, canny_again, blur = host.pictures(unit(), unit(module="blur_gaussian", model="net1"))
    assert host.watch()["network_calls"] == 2 * STEPS
    assert difference(one, plain) >= 5
    assert difference(both, plain) >= 5
    assert difference(both, one) >= 5
    assert np.array_equal(canny, canny_again)
    assert set(np.unique(canny)) == {0, 255}
    assert blur.shape == canny.shape == (SIZE, SIZE, 3)


def test_the_extension_alone_changes_nothing(host: Client, plain: NDArray[np.uint8]) -> None:
    asked = {name: value for name, value in job(**JOB).items() if name != "alwayson_scripts"}
    bare = host.host.post("/watch/without_scripts", asked).json()
    assert np.array_equal(pixels(bare), plain)


@pytest.mark.parametrize(
    "still",
    [
        dict(weight=0),
        dict(guidance_start=0.9, guidance_end=0.95),
        dict(effective_region_mask=png(np.zeros((64, 64), np.uint8))),
        dict(enabled=False),
        dict(enabled="false", weight="heavy", resize_mode="?"),
    ],
    ids=["weight 0", "outside the window", "empty region", "disabled", "disabled and wrong"],
)
def test_what_must_not_act_changes_no_bit(
    host: Client, plain: NDArray[np.uint8], still: dict[str, object]
) -> None:
    assert difference(host.pictures(unit())[0], plain) >= 5
    assert host.watch()["network_calls"] == STEPS
    assert np.array_equal(host.pictures(unit(**still))[0], plain)
    assert host.watch()["network_calls"] == 0


def test_a_unit_that_never_acted_says_so(host: Client) -> None:
    info = json.loads(host.post([unit(guidance_start=0.9, guidance_end=0.95)]).json()["info"])
    assert "unit 0 had no effect" in json.dumps(info)


def test_hires_fix_runs_a_unit_in_the_passes_it_names(host: Client) -> None:
    bare = host.pictures(**HIRES)[0]
    assert bare.shape[:2] == (192, 192)
    shown = {}
    for option, passes in (("Both", 2), ("Low res only", 1), ("High res only", 1)):
        host.watch()
        picture, *maps = host.pictures(unit(module="blur_gaussian", weight=2, hr_option=option), **HIRES)
        calls = host.watch()["network_calls"]
        assert calls == passes * STEPS, option
        assert difference(picture, bare) >= 5, option
        assert [m.shape[:2] for m in maps] == [(192, 192), (SIZE, SIZE)]
        shown[option] = picture
    assert difference(shown["Both"], shown["Low res only"]) > 1
    assert difference(shown["Both"], shown["High res only"]) > 1


def test_in_the_wrong_pass_no_bit_changes(host: Client) -> None:
    """What the first pass hands to the second, as a hash of its latents."""
    handed = {}
    for option in (None, "High res only", "Low res only"):
        host.pictures(*([unit(hr_option=option)] if option else []), **HIRES)
        handed[option] = host.watch()["enlarged"]
    assert handed["Low res only"] != handed[None]
    assert handed["High res only"] == handed[None]


def test_high_res_only_is_ignored_without_hires_fix(host: Client) -> None:
    assert np.array_equal(host.pictures(unit(hr_option="High res only"))[0], host.pictures(unit())[0])


MISTAKES = {
    "unknown model": (unit(model="nothing like it"), "no control model called 'nothing like it'"),
    "unknown preprocessor": (unit(module="cany"), "no preprocessor called 'cany'. Did you mean canny?"),
    "no model": (unit(model=None), "has no model"),
    "no picture": (unit(image=None), "has no picture"),
    "broken picture": (unit(image=PHOTO[:200]), "cannot be decoded"),
    "no picture at all": (unit(image="/etc/passwd"), "Send the picture itself as base64"),
    "mask of another size": (
        unit(module="inpaint_only", mask=png(np.zeros((9, 9), np.uint8))),
        "mask is 9x9",
    ),
    "another base": (unit(model="other"), "does not fit the checkpoint"),
    "no model file": (unit(model="broken"), "cannot be read"),
    "too heavy": (unit(weight=3), "weight is 3"),
    "start after end": (unit(guidance_start=0.6, guidance_end=0.4), "after guidance_end"),
    "layers": (unit(advanced_weighting=[1, 1]), "takes 13"),
    "no unit": ("canny", "cannot be made of 'canny'"),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_said_and_leaves_nothing_behind(
    host: Client, plain: NDArray[np.uint8], wrong: object, sentence: str
) -> None:
    answer = host.post([unit(), wrong])
    assert answer.status_code >= 400
    assert "ControlNet unit 1: " in answer.json()["errors"]
    assert sentence in answer.json()["errors"]
    assert "images" not in answer.json()
    assert host.watch()["hooks"] == 0
    assert np.array_equal(host.pictures()[0], plain)


def test_too_many_units_are_said(host: Client) -> None:
    answer = host.post([unit(weight=0)] * 11)
    assert answer.status_code >= 400
    assert "At most 10" in answer.json()["errors"]


def test_a_failure_inside_the_unet_leaves_nothing_behind(host: Client, plain: NDArray[np.uint8]) -> None:
    answer = host.post([unit()], prompt="fail in the UNet")
    assert answer.status_code == 500
    assert "says the watch" in answer.json()["errors"]
    after = host.watch()
    assert (after["network_calls"], after["hooks"]) == (1, 0)
    assert np.array_equal(host.pictures()[0], plain)


def test_more_batches_give_one_map_and_the_same_pictures(host: Client) -> None:
    several = host.pictures(unit(), batch_size=2, n_iter=2)
    assert len(several) == 4 + 1
    for i, picture in enumerate(several[:4]):
        assert difference(picture, host.pictures(unit(), seed=1 + i)[0]) < 1


def test_img2img_lends_its_picture(host: Client) -> None:
    painting = dict(route="img2img", init_images=[PHOTO], denoising_strength=0.85)
    bare = host.pictures(**painting)[0]
    lent, canny = host.pictures(unit(image=None), **painting)
    own = host.pictures(unit(resize_mode="Just Resize"), **painting)[0]
    assert difference(lent, bare) >= 3
    assert set(np.unique(canny)) <= {0, 255}
    assert np.array_equal(lent, own)


def test_only_masked_shows_the_control_what_is_painted(host: Client) -> None:
    """The hint is the part of the init picture that the host paints, seen through its own crop."""
    mask = np.zeros((256, 256), np.uint8)
    mask[50:150, 75:175] = 255
    painting = dict(
        route="img2img",
        init_images=[PHOTO],
        mask=png(mask),
        mask_blur=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=0,
        denoising_strength=0.7,
    )
    _, seen = host.pictures(unit(module="none", image=None), **painting)
    crop = Image.fromarray(data.astronaut()[50:150, 75:175]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    assert difference(seen, np.array(crop)) < 1


def test_prompts_joined_by_and_are_controlled_row_by_row(host: Client) -> None:
    """A prompt of weight 0 joins nothing, but is evaluated: control must know the rows of the other one."""
    said, cfg = {"prompt": "a red cube"}, "ControlNet is more important"
    alone, joined = said, {"prompt": "a red cube AND a hill :0"}
    for mode in ("Balanced", cfg):
        controlled = host.pictures(unit(control_mode=mode), **alone)[0]
        assert difference(controlled, host.pictures(**alone)[0]) >= 5
        both = host.pictures(unit(control_mode=mode), **joined)[0]
        assert np.abs(both.astype(int) - controlled).max() <= 1, mode


def test_schedules_beyond_the_window(host: Client, plain: NDArray[np.uint8]) -> None:
    full = host.pictures(unit())[0]
    curved = host.pictures(unit(weight_curve="1@0, 0@0.5"))[0]
    assert host.watch()["network_calls"] < 2 * STEPS
    assert difference(curved, plain) >= 2
    assert difference(curved, full) >= 1
    assert np.array_equal(host.pictures(unit(weight_curve="0@0"))[0], plain)
    spared = host.pictures(unit(negative_weight=0))[0]
    assert difference(spared, full) >= 1
    pair = host.pictures(batch_size=2)
    first, second, *_ = host.pictures(unit(batch_weights=[0, 1]), batch_size=2)
    assert np.array_equal(first, pair[0]), "a picture of weight 0 is the plain one"
    assert difference(second, pair[1]) >= 5


def test_the_high_resolution_pass_may_have_values_of_its_own(host: Client) -> None:
    low = host.pictures(unit(hr_option="Low res only"), **HIRES)[0]
    host.watch()
    same = host.pictures(unit(hires={"weight": 0}), **HIRES)[0]
    assert host.watch()["network_calls"] == STEPS
    assert np.array_equal(same, low)
    half = host.pictures(unit(hires={"weight": 0.5, "guidance_end": 0.6}), **HIRES)[0]
    assert difference(half, low) >= 1


def test_inpainting_keeps_what_the_mask_does_not_cover(host: Client) -> None:
    own = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, SIZE // 2 :] = 255
    asked = unit(module="inpaint_only", image=png(own), mask=png(mask))
    kept, _ = host.pictures(asked)
    left, right = np.s_[:, : SIZE // 2 - 8], np.s_[:, SIZE // 2 + 8 :]
    assert np.array_equal(kept[left], own[left])
    assert difference(kept[right], own[right]) >= 20
    lost, _ = host.pictures({**asked, "module": "inpaint_global_harmonious"})
    assert difference(lost[left], own[left]) >= 20


def test_recolouring_needs_no_model(host: Client) -> None:
    light = np.linspace(60, 200, SIZE).astype(np.uint8)[None, :, None].repeat(SIZE, 0).repeat(3, 2)
    coloured, shown = host.pictures(unit(module="recolor_intensity", model="None", image=png(light)))
    assert np.abs(coloured.max(2).astype(int) - shown[..., 0]).max() <= 2
    assert coloured.std(2).mean() > 1


def test_colour_fix_follows_its_picture_without_a_model(host: Client, plain: NDArray[np.uint8]) -> None:
    fixed = []
    for colour in ((200, 40, 60), (30, 90, 220)):
        own = np.full((SIZE, SIZE, 3), colour, np.uint8)
        fixed.append(host.pictures(unit(module="tile_colorfix", model="None", image=png(own)))[0])
        assert difference(fixed[-1], plain) >= 1
    assert not np.array_equal(*fixed), "a VAE of random weights sees little, but something"
    stopped = host.pictures(unit(module="tile_colorfix", model="None", image=png(own), weight=0))[0]
    assert np.array_equal(stopped, plain)
