"""The embedded host over HTTP: A1111's API and script contract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from embedded_server import JOB, Answer, Failed, encoded, running
from PIL import Image, ImageDraw

from controlstack import __version__

TXT2IMG = ["setup", "before_process", "process"]
BATCH = ["before_process_batch", "after_extra_networks_activate", "process_batch"]
PASS = ["process_before_every_sampling", *["cfg_denoiser"] * JOB["steps"]]
HIRES = ["after_extra_networks_activate", "before_hr", *PASS]
SAMPLED = ["post_sample", "postprocess_batch", "postprocess_batch_list"]
PICTURE = ["postprocess_image", "postprocess_maskoverlay", "postprocess_image_after_composite"]
WHOLE = {"inpaint_full_res": False, "mask_blur": 0, "inpainting_fill": 1}
HIRES_JOB = {"enable_hr": True, "denoising_strength": 0.6}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with running(tmp_path_factory.mktemp("host")) as client:
        yield client


def photograph(width=64, height=96):
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([across, down, 255 - across]).astype(np.uint8))


def disc(width=64, height=96, radius=16):
    mask = Image.new("L", (width, height))
    x, y = width // 2, height // 2
    ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


def close(ours, theirs):
    """Rounding differs between batch sizes by less than one of 255 levels."""
    return np.abs(ours - theirs).max() <= 1


class TestTxt2Img:
    def test_size_and_no_flat_picture(self, host):
        answer = host.txt2img()
        (picture,) = answer.pictures
        assert picture.size == (64, 96)
        assert answer.arrays[0].std(axis=(0, 1)).min() > 10

    def test_a_picture_does_not_depend_on_its_place(self, host):
        batches = host.txt2img(batch_size=2, n_iter=2).arrays
        assert len(batches) == 4
        for place, picture in enumerate(batches):
            (alone,) = host.txt2img(seed=JOB["seed"] + place).arrays
            assert close(picture, alone)
        assert not close(batches[0], batches[1])

    def test_an_ancestral_sampler_draws_for_each_picture(self, host):
        batch = host.txt2img(batch_size=2, sampler_name="Euler a").arrays
        assert close(batch[1], host.txt2img(seed=6, sampler_name="Euler a").arrays[0])

    def test_the_prompt_and_the_seed_count(self, host):
        pictures = [
            host.txt2img(**f).arrays[0] for f in ({}, {"prompt": "snow"}, {"seed": 6}, {"cfg_scale": 1.0})
        ]
        assert not any(close(a, b) for i, a in enumerate(pictures) for b in pictures[:i])

    def test_rows_of_the_unet(self, host):
        with_cfg = host.txt2img(batch_size=2).of("cfg_denoiser")
        assert [shapes for shapes, *_ in with_cfg] == [[[4, 4, 12, 8], [2, 77, 64], [2, 77, 64]]] * JOB[
            "steps"
        ]
        assert [steps for _, steps, _ in with_cfg] == [[0, 3], [1, 3], [2, 3]]
        without = host.txt2img(batch_size=2, cfg_scale=1.0)
        assert [shapes for shapes, *_ in without.of("cfg_denoiser")] == [[[2, 4, 12, 8], [2, 77, 64]]] * JOB[
            "steps"
        ]
        assert without.of("process_before_every_sampling") == [
            [False, [2, 4, 12, 8], [2, 4, 12, 8], [2, 77, 64], None, True]
        ]

    def test_noise_levels_fall(self, host):
        """The first is that of step 999, 14.61 with SD's betas: k-diffusion's sigma_max."""
        sigmas = [sigmas[0] for *_, sigmas in host.txt2img().of("cfg_denoiser")]
        assert sigmas[0] == pytest.approx(14.61, abs=0.01)
        assert sigmas == sorted(sigmas, reverse=True)

    def test_every_sampler_paints_its_own_picture(self, host):
        names = [sampler["name"] for sampler in host.ask("/sdapi/v1/samplers")]
        assert {"DDIM", "Euler", "Euler a", "DPM++ 2M", "Heun", "UniPC", "LCM"} == set(names)
        pictures = [host.txt2img(sampler_name=name.lower(), steps=4).arrays[0] for name in names]
        assert min(picture.std() for picture in pictures) > 10
        assert not any(close(a, b) for i, a in enumerate(pictures) for b in pictures[:i])

    def test_a_random_seed_is_told(self, host):
        told = [host.txt2img(seed=-1, batch_size=2).info["all_seeds"] for _ in range(2)]
        assert told[0] != told[1]
        assert all(second == first + 1 for first, second in told)

    def test_odd_sizes_are_cut_to_latent_cells(self, host):
        assert host.txt2img(width=75, height=101).pictures[0].size == (72, 96)


class TestHires:
    @pytest.mark.parametrize(
        "upscaler", ["Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "Nearest"]
    )
    def test_sizes_and_passes(self, host, upscaler):
        answer = host.txt2img(**HIRES_JOB, hr_scale=1.5, hr_upscaler=upscaler)
        assert answer.pictures[0].size == (96, 144)
        assert answer.arrays[0].std() > 10
        first, second = answer.of("process_before_every_sampling")
        assert (first[0], first[1]) == (False, [1, 4, 12, 8])
        assert (second[0], second[1], second[-1]) == (True, [1, 4, 18, 12], False)

    def test_steps_of_the_second_pass(self, host):
        answer = host.txt2img(**HIRES_JOB, hr_second_pass_steps=5)
        assert [steps for _, steps, _ in answer.of("cfg_denoiser")] == [[i, 3] for i in range(3)] + [
            [i, 5] for i in range(5)
        ]
        assert answer.of("post_sample") == [["DecodedSamples"]]

    def test_scripts_are_given_the_pictures_as_on_a1111(self, host):
        """From -1 to 1, as its processing.py scales them to 0..1 after `post_sample`: 0 is grey."""
        assert np.abs(host.txt2img({"edit": "post_sample"}, **HIRES_JOB).arrays[0] - 127.5).max() <= 0.5

    @pytest.mark.parametrize(
        ("fields", "size"),
        [
            ({"hr_resize_x": 96}, (96, 144)),
            ({"hr_resize_y": 120}, (80, 120)),
            (
                {"hr_resize_x": 96, "hr_resize_y": 96},
                (96, 96),
            ),  # grows to 96×144, then loses 6 of 18 rows of cells
            ({"hr_scale": 1.3}, (80, 120)),  # 83.2 × 124.8
        ],
    )
    def test_target_size(self, host, fields, size):
        assert host.txt2img(**HIRES_JOB, **fields).pictures[0].size == size

    def test_a_batch_equals_single_pictures(self, host):
        batch = host.txt2img(**HIRES_JOB, batch_size=2, hr_scale=1.5).arrays
        assert close(batch[1], host.txt2img(**HIRES_JOB, seed=6, hr_scale=1.5).arrays[0])

    def test_its_own_prompt_and_sampler(self, host):
        plain = host.txt2img(**HIRES_JOB).arrays[0]
        assert np.array_equal(plain, host.txt2img(**HIRES_JOB, hr_prompt="a cat").arrays[0])
        assert not np.array_equal(plain, host.txt2img(**HIRES_JOB, hr_prompt="snow").arrays[0])
        assert not np.array_equal(plain, host.txt2img(**HIRES_JOB, hr_sampler_name="DDIM").arrays[0])

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"hr_upscaler": "R-ESRGAN 4x+"}, "could not find upscaler named R-ESRGAN 4x+"),
            ({"hr_sampler_name": "DPM fast"}, "could not find sampler named DPM fast"),
        ],
    )
    def test_what_is_not_there_is_an_error(self, host, fields, error):
        with pytest.raises(Failed) as failed:
            host.txt2img(**HIRES_JOB, **fields)
        assert (failed.value.status, failed.value.body["errors"]) == (500, error)


class TestImg2Img:
    def test_strength(self, host):
        """A1111 runs int(strength * steps) + 1 evaluations; the picture fades with the strength."""
        distances = []
        for strength, evaluations in ((0.0, 1), (0.5, 3), (1.0, 4)):
            answer = host.img2img(photograph(), steps=4, denoising_strength=strength, seed=1)
            assert len(answer.of("cfg_denoiser")) == evaluations
            assert answer.pictures[0].size == (64, 96)
            distances.append(answer.arrays[0])
        nothing, some, all_of_it = distances
        assert np.abs(nothing - some).mean() < np.abs(nothing - all_of_it).mean()
        assert not close(nothing, some)

    def test_a_batch_equals_single_pictures(self, host):
        batch = host.img2img(photograph(), batch_size=2).arrays
        assert close(batch[1], host.img2img(photograph(), seed=6).arrays[0])

    def test_several_pictures_make_a_batch(self, host):
        two = [encoded(photograph()), encoded(photograph().rotate(180))]
        batch = host.img2img(photograph(), init_images=two, batch_size=2).arrays
        assert close(batch[1], host.img2img(photograph().rotate(180), seed=6).arrays[0])

    @pytest.mark.parametrize("mode", [0, 1, 2, 3])
    def test_resize_modes(self, host, mode):
        assert host.img2img(photograph(96, 96), resize_mode=mode).pictures[0].size == (64, 96)

    def test_latents_are_handed_to_scripts(self, host):
        (facts,) = host.img2img(photograph()).of("process_before_every_sampling")
        assert facts == [False, [1, 4, 12, 8], [1, 4, 12, 8], [1, 77, 64], [1, 77, 64], False]


class TestInpaint:
    @pytest.mark.parametrize("fill", [0, 1, 2, 3])
    def test_what_is_not_masked_stays(self, host, fill):
        fields = {**WHOLE, "inpainting_fill": fill, "mask": encoded(disc())}
        (painted,) = host.img2img(photograph(), **fields).arrays
        kept = np.asarray(disc()) == 0
        before = np.asarray(photograph()).astype(int)
        assert np.array_equal(painted[kept], before[kept])
        assert np.abs(painted - before)[~kept].mean() > 5

    @pytest.mark.parametrize("mode", [0, 1, 2, 3])
    def test_a_picture_of_another_size(self, host, mode):
        """Picture and mask are fitted alike; mode 3, which enlarges latents, stretches as mode 0 does."""
        square, mask = photograph(96, 96), disc(96, 96)
        (painted,) = host.img2img(square, **WHOLE, mask=encoded(mask), resize_mode=mode).arrays
        corners = painted[[0, 0, -1, -1], [0, -1, 0, -1]]
        left, right = {0: (0, 95), 1: (16, 79), 2: (0, 95), 3: (0, 95)}[
            mode
        ]  # columns of the square that are seen
        seen = np.asarray(square).astype(int)[[0, 0, -1, -1], [left, right, left, right]]
        assert np.abs(corners - seen).max() <= 2

    def test_inverted(self, host):
        fields = {**WHOLE, "mask": encoded(disc()), "inpainting_mask_invert": 1}
        (painted,) = host.img2img(photograph(), **fields).arrays
        masked = np.asarray(disc()) == 255
        assert np.array_equal(painted[masked], np.asarray(photograph())[masked])

    def test_the_mask_may_be_drawn_in_alpha(self, host):
        drawn = photograph().convert("RGBA")
        drawn.putalpha(disc())
        plain, alpha = (
            host.img2img(photograph(), **WHOLE, mask=encoded(m)).arrays[0] for m in (disc(), drawn)
        )
        assert np.array_equal(plain, alpha)

    def test_only_masked_paints_at_full_size_and_pastes_back(self, host):
        big, mask = photograph(160, 240), disc(160, 240, radius=20)
        answer = host.img2img(
            big, mask=encoded(mask), mask_blur=0, inpainting_fill=1, inpaint_full_res_padding=8
        )
        (painted,) = answer.arrays
        assert answer.of("process_before_every_sampling")[0][1] == [
            1,
            4,
            12,
            8,
        ]  # the job's size, not the picture's
        assert painted.shape == (240, 160, 3)
        kept = np.asarray(mask) == 0
        before = np.asarray(big).astype(int)
        assert np.array_equal(painted[kept], before[kept])
        assert np.abs(painted - before)[~kept].mean() > 5
        assert answer.info["extra_generation_params"]["Masked area padding"] == 8

    def test_blur_softens_the_border(self, host):
        soft = {**WHOLE, "mask_blur": 4, "mask": encoded(disc())}
        (painted,) = host.img2img(photograph(), **soft).arrays
        changed = np.abs(painted - np.asarray(photograph()).astype(int)).max(axis=2) > 2
        assert changed[np.asarray(disc()) == 0].any()
        assert not changed[:16].any()

    def test_an_empty_mask_paints_all_and_says_so(self, host):
        answer = host.img2img(photograph(), mask=encoded(Image.new("L", (64, 96))))
        plain = host.img2img(photograph())
        assert np.array_equal(answer.arrays[0], plain.arrays[0])
        assert answer.info["comments"] == ["The mask is empty, so the whole picture was painted."]


class TestHooks:
    """The order of A1111 1.10, processing.py."""

    def test_txt2img(self, host):
        assert host.txt2img().hooks() == [*TXT2IMG, *BATCH, *PASS, *SAMPLED, *PICTURE, "postprocess"]

    def test_batches_and_pictures(self, host):
        batch = [*BATCH, *PASS, *SAMPLED, *PICTURE, *PICTURE]
        answer = host.txt2img(batch_size=2, n_iter=2)
        assert answer.hooks() == [*TXT2IMG, *batch, *batch, "postprocess"]
        assert answer.of("before_process_batch") == [[0, [5, 6], ["a cat"] * 2], [1, [7, 8], ["a cat"] * 2]]
        assert answer.of("postprocess_batch") == [[[2, 3, 96, 64], 0], [[2, 3, 96, 64], 1]]
        assert answer.of("process") == [[[5, 6, 7, 8], ["a cat"] * 4, True, True]]

    def test_hires(self, host):
        assert host.txt2img(**HIRES_JOB).hooks() == [
            *TXT2IMG,
            *BATCH,
            *PASS,
            *HIRES,
            *SAMPLED,
            *PICTURE,
            "postprocess",
        ]

    def test_img2img_with_a_mask(self, host):
        answer = host.img2img(photograph(), mask=encoded(disc()), denoising_strength=1.0)
        assert answer.hooks() == [*TXT2IMG, *BATCH, *PASS, "on_mask_blend", *SAMPLED, *PICTURE, "postprocess"]

    @pytest.mark.parametrize("hook", [*TXT2IMG, *BATCH, PASS[0], "before_hr", *SAMPLED, *PICTURE])
    def test_a_failing_hook_does_not_stop_the_job(self, host, hook):
        answer = host.txt2img({"raise_in": hook}, **HIRES_JOB)
        assert np.array_equal(answer.arrays[0], host.txt2img(**HIRES_JOB).arrays[0])
        assert answer.hooks()[-1] == "postprocess"
        assert f"Error running {hook}" in (host.data / "log.txt").read_text()

    def test_an_exception_in_the_unet_is_the_answer(self, host):
        with pytest.raises(Failed) as failed:
            host.txt2img({"fail_unet": True})
        assert failed.value.status == 500
        assert failed.value.body == {
            "error": "RuntimeError",
            "detail": "",
            "body": "",
            "errors": "the probe fails in the UNet",
        }
        assert host.txt2img().probe["unet_hooks"] == 0

    def test_what_hooks_change_counts(self, host):
        plain = host.txt2img().arrays[0]
        assert not close(host.txt2img({"edit": "process_before_every_sampling"}).arrays[0], plain)
        assert (host.txt2img({"edit": "postprocess_batch"}).arrays[0] == 255).all()
        assert (host.txt2img({"edit": "postprocess_image"}).arrays[0] == [0, 0, 255]).all()
        masked = {"mask": encoded(disc()), "inpaint_full_res": False}
        blended = host.img2img(photograph(), {"edit": "on_mask_blend"}, **masked)
        assert not close(blended.arrays[0], host.img2img(photograph(), **masked).arrays[0])

    def test_pictures_that_a_script_appends_are_returned(self, host):
        answer = host.txt2img({"edit": "postprocess"}, batch_size=2)
        assert [picture.size for picture in answer.pictures] == [(64, 96), (64, 96), (5, 7)]

    def test_comments_and_infotext(self, host):
        answer = host.txt2img({"edit": "process"}, batch_size=2)
        assert answer.info["comments"] == ["the probe was here"]
        expected = (
            "a cat\nNegative prompt: blurry\n"
            "Steps: 3, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.0, Seed: 6, Size: 64x96, "
            f'Model: random SD1-shaped nets, Probe, edited: "a: b", Version: ControlStack {__version__}'
        )
        assert answer.info["infotexts"][1] == answer.pictures[1].info["parameters"] == expected

    def test_basedir_while_loading(self, host):
        assert host.txt2img().probe["basedir"] == str(host.data / "extensions/probe")

    def test_no_hook_stays(self, host):
        assert host.txt2img(**HIRES_JOB).probe["unet_hooks"] == 0


class TestApi:
    def test_interrupting(self, host):
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(host.txt2img, **HIRES_JOB, steps=500, n_iter=2)
            while host.ask("/sdapi/v1/progress")["state"]["sampling_step"] < 2:
                assert not answer.done()
            progress = host.ask("/sdapi/v1/progress")
            assert 0 < progress["progress"] < 0.5
            host.ask("/sdapi/v1/interrupt", {})
            hooks = answer.result().hooks()
        assert 2 <= hooks.count("cfg_denoiser") < 500
        assert hooks.count("process_before_every_sampling") == hooks.count("postprocess") == 1
        assert len(answer.result().pictures) == 1

    def test_script_arguments_arrive_as_sent(self, host):
        job = {
            **JOB,
            "alwayson_scripts": {"PROBE": {"args": [{"x": [1, None]}, {"deep": [True]}, "dropped"]}},
        }
        assert Answer(host.ask("/sdapi/v1/txt2img", job)).probe["second"] == {"deep": [True]}
        assert host.txt2img().probe["second"] == "default"
        assert (
            Answer(host.ask("/sdapi/v1/txt2img", {**JOB, "alwayson_scripts": {"probe": {}}})).probe["second"]
            == "default"
        )

    @pytest.mark.parametrize(
        ("path", "fields", "status", "detail"),
        [
            ("txt2img", {"alwayson_scripts": {"nobody": {"args": []}}}, 422, "Script 'nobody' not found"),
            ("txt2img", {"script_name": "X/Y/Z plot"}, 422, "Script 'X/Y/Z plot' not found"),
            ("txt2img", {"sampler_name": "DPM fast"}, 400, "Sampler not found"),
            ("img2img", {}, 404, "Init image not found"),
        ],
    )
    def test_refusals(self, host, path, fields, status, detail):
        with pytest.raises(Failed) as failed:
            host.ask(f"/sdapi/v1/{path}", {**JOB, **fields})
        assert (failed.value.status, failed.value.body["detail"]) == (status, detail)
        assert failed.value.body["error"] == "HTTPException"

    def test_a_picture_that_is_none_is_an_error(self, host):
        with pytest.raises(Failed) as failed:
            host.img2img(photograph(), init_images=["no picture"])
        assert (failed.value.status, failed.value.body["error"]) == (500, "ControlError")

    def test_unknown_and_unoffered_fields(self, host):
        answer = host.txt2img(nobody_knows=1, tiling=True)
        assert np.array_equal(answer.arrays[0], host.txt2img().arrays[0])
        assert answer.info["comments"] == ["The embedded host does not offer tiling; it was ignored."]

    def test_settings_of_one_job(self, host):
        answer = host.txt2img(override_settings={"some_setting": 3})
        assert answer.probe["opts"]["some_setting"] == 3
        assert "some_setting" not in host.ask("/sdapi/v1/options")

    def test_answers_without_pictures(self, host):
        assert host.txt2img(send_images=False).pictures == []

    def test_parameters_come_back(self, host):
        answer = host.img2img(photograph(), denoising_strength=0.5)
        assert answer.parameters["denoising_strength"] == 0.5
        assert answer.parameters["init_images"] is None
        assert host.img2img(photograph(), include_init_images=True).parameters["init_images"] == [
            encoded(photograph())
        ]

    def test_saved_pictures_and_the_page(self, host):
        host.txt2img(save_images=True)
        (file,) = (host.data / "outputs").glob("*.png")
        assert Image.open(file).info["parameters"].startswith("a cat\n")
        page = host.ask("/")
        assert file.name in page
        assert 'href="/docs"' in page

    def test_what_there_is(self, host):
        assert host.ask("/sdapi/v1/sd-models")[0]["title"] == "random SD1-shaped nets"
        assert "probe" in host.ask("/sdapi/v1/scripts")["img2img"]
        progress = host.ask("/sdapi/v1/progress")
        assert (progress["progress"], progress["state"]["job"]) == (0.0, "")
