"""What programs ask the embedded host for beside pictures, and the finer points of asking for those."""

from __future__ import annotations

import base64
import io
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from embedded_server import HERE, JOB, Failed, encoded, running
from PIL import Image
from test_embedded_server import close, disc, photograph

LOGIN = "ann:opens:it"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    data = tmp_path_factory.mktemp("host")
    (data / "extensions/selectable/scripts").mkdir(parents=True)
    shutil.copy(HERE / "selectable_script.py", data / "extensions/selectable/scripts")
    with running(data, login=LOGIN) as client:
        yield client


class TestPasswords:
    @pytest.mark.parametrize(
        "header", [None, "Basic", "Bearer x", "ann:opens:it", "ann:open", "Ann:opens:it", ":"]
    )
    def test_strangers_are_refused_everywhere(self, host, header):
        """RFC 7617: 401 with a challenge. The routes are those that the host itself lists."""
        given = {} if header is None else {"Authorization": header}
        if header and ":" in header:
            given["Authorization"] = "Basic " + base64.b64encode(header.encode()).decode()
        allowed = header == LOGIN
        routes = host.ask("/openapi.json")["paths"]
        assert {"/sdapi/v1/txt2img", "/controlnet/detect", "/controlnet/version"} < routes.keys()
        for path in [*routes, "/", "/docs", "/openapi.json", "/outputs/x.png", "/latest", "/nothing"]:
            methods = list(routes.get(path, {"get": None}))
            answer = httpx.request(methods[0], host.address + path, headers=given)
            assert (answer.status_code == 401) == (not allowed), path
            if not allowed:
                assert answer.headers["www-authenticate"].startswith("Basic")
                assert answer.json()["detail"] == "Incorrect username or password"

    def test_the_extension_sees_the_flag(self, host):
        assert host.ask("/controlnet/version") == {"version": 3}

    def test_one_of_several(self):
        """Without a server: the middleware around an application that answers everything."""
        from starlette.responses import PlainTextResponse
        from starlette.testclient import TestClient

        from controlstack.hosts.embedded.auth import BasicAuth

        client = TestClient(BasicAuth(PlainTextResponse("in"), "ann:one,bob:zwölf"))
        for name, password, status in (
            ("ann", "one", 200),
            ("bob", "zwölf", 200),
            ("ann", "zwölf", 401),
            ("bob", "", 401),
        ):
            given = base64.b64encode(f"{name}:{password}".encode()).decode()
            assert client.get("/", headers={"Authorization": f"basic {given}"}).status_code == status


class TestLists:
    def test_samplers(self, host):
        listed = {sampler["name"]: sampler for sampler in host.ask("/sdapi/v1/samplers")}
        assert listed["Euler a"]["aliases"] == ["k_euler_a", "k_euler_ancestral"]
        assert listed["DPM++ 2M"]["options"] == {"scheduler": "karras"}

    def test_schedulers(self, host):
        listed = {schedule["name"]: schedule for schedule in host.ask("/sdapi/v1/schedulers")}
        assert listed["karras"] == {
            "name": "karras",
            "label": "Karras",
            "aliases": None,
            "default_rho": 7.0,
            "need_inner_model": False,
        }
        assert {"automatic", "uniform", "exponential", "sgm_uniform"} < listed.keys()

    def test_what_the_host_does_not_use_is_empty(self, host):
        for name in (
            "sd-vae",
            "hypernetworks",
            "loras",
            "face-restorers",
            "realesrgan-models",
            "prompt-styles",
        ):
            assert host.ask(f"/sdapi/v1/{name}") == []
        assert host.ask("/sdapi/v1/embeddings") == {"loaded": {}, "skipped": {}}

    def test_upscalers_are_those_of_hires(self, host):
        names = [
            upscaler["name"]
            for route in ("upscalers", "latent-upscale-modes")
            for upscaler in host.ask(f"/sdapi/v1/{route}")
        ]
        assert {"None", "Lanczos", "Latent", "Latent (bicubic antialiased)"} < set(names)
        job = {"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 1.5}
        pictures = [host.txt2img(**job, hr_upscaler=name).pictures[0].size for name in names]
        assert pictures == [(96, 144)] * len(names)

    def test_memory(self, host):
        ram = host.ask("/sdapi/v1/memory")["ram"]
        assert 100e6 < ram["used"] < ram["total"]
        assert 0 < ram["free"] < ram["total"]

    def test_scripts(self, host):
        listed = host.ask("/sdapi/v1/scripts")
        assert {"controlnet", "probe", "two prompts", "restricted"} <= set(listed["txt2img"])
        info = {
            (script["name"], script["is_img2img"]): script for script in host.ask("/sdapi/v1/script-info")
        }
        selectable = info["two prompts", True]
        assert not selectable["is_alwayson"]
        text, slider, dropdown = selectable["args"]
        nothing = {"minimum": None, "maximum": None, "step": None, "choices": None}
        assert text == {"label": "Second prompt", "value": "a dog", **nothing}
        assert slider == {
            **nothing,
            "label": "Second seed",
            "value": 6,
            "minimum": 1,
            "maximum": 9,
            "step": 1,
        }
        assert dropdown["choices"] == ["whole", "halves"]
        assert info["controlnet", False]["is_alwayson"]
        assert info["controlnet", False]["args"][0]["value"]["module"] == "none"


class TestOptions:
    def test_setting_and_reading(self, host):
        assert host.ask("/sdapi/v1/options")["a_number"] == 3
        assert host.ask("/sdapi/v1/options", {"a_number": 4, "other_hosts_have_this": 1}) is None
        options = host.ask("/sdapi/v1/options")
        assert options["a_number"] == 4
        assert "other_hosts_have_this" not in options
        host.ask("/sdapi/v1/options", {"a_number": 3})

    def test_the_model(self, host):
        name = host.ask("/sdapi/v1/sd-models")[0]["title"]
        assert host.ask("/sdapi/v1/options")["sd_model_checkpoint"] == name
        host.ask("/sdapi/v1/options", {"sd_model_checkpoint": name.upper()})
        assert host.ask("/sdapi/v1/options")["sd_model_checkpoint"] == name

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"a_number": "four"}, "The setting a_number is 3 by default and cannot be 'four'"),
            ({"a_number": True}, "The setting a_number is 3 by default and cannot be True"),
            ({"sd_model_checkpoint": "v1-5"}, "model 'v1-5' not found; the embedded host paints with random"),
        ],
    )
    def test_what_cannot_be_set_is_said(self, host, asked, said):
        with pytest.raises(Failed) as failed:
            host.ask("/sdapi/v1/options", asked)
        assert failed.value.status == 422
        assert failed.value.body["detail"].startswith(said)

    def test_what_is_hidden_from_programs(self, host):
        assert "secret" not in host.ask("/sdapi/v1/options")
        host.ask("/sdapi/v1/options", {"secret": "known"})
        answer = host.txt2img(override_settings={"secret": "known", "sd_model_checkpoint": "another"})
        assert "known" not in answer.probe["opts"].values()
        assert answer.info["comments"] == [
            "The setting secret cannot be changed from outside; it was left as it is.",
            "The embedded host paints with random SD1-shaped nets only, not with another.",
        ]

    def test_clip_skip(self, host):
        skipped = host.txt2img(override_settings={"CLIP_stop_at_last_layers": 2})
        assert not close(skipped.arrays[0], host.txt2img().arrays[0])
        assert "Clip skip: 2" in skipped.info["infotexts"][0]
        assert skipped.info["clip_skip"] == 2


class TestScripts:
    def test_a_selectable_one_runs_the_job(self, host):
        """Different prompts, negative prompts and seeds in one batch are each as painted alone."""
        both = host.txt2img(script_name="TWO prompts", script_args=["snow", 7])
        alone = [host.txt2img().arrays[0], host.txt2img(prompt="snow", seed=7, negative_prompt="").arrays[0]]
        assert len(both.arrays) == 2
        assert all(map(close, both.arrays, alone))
        assert both.info["all_prompts"] == ["a cat", "snow"]
        assert both.info["all_seeds"] == [5, 7]
        assert [text.split("\n")[0] for text in both.info["infotexts"]] == ["a cat", "snow"]
        assert both.hooks().count("process") == 1
        assert close(both.arrays[0], host.txt2img(script_name="two prompts").arrays[0])

    def test_its_errors_are_the_answer(self, host):
        with pytest.raises(Failed) as failed:
            host.txt2img(script_name="two prompts", script_args=["snow", 7, "halves"])
        assert failed.value.body["errors"] == "A list of 3 prompts or seeds does not fit a job of 2 pictures"

    def test_several_always_on(self, host):
        scripts = {"probe": {"args": [{"edit": "process"}]}, "controlnet": {"args": []}, "Restricted": {}}
        assert host.txt2img(alwayson_scripts=scripts).info["comments"] == ["the probe was here"]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"alwayson_scripts": {"two prompts": {"args": []}}}, "Cannot have a selectable script in the"),
            ({"alwayson_scripts": {"probe": {"args": "x"}}}, "The args of script 'Probe' are no list"),
        ],
    )
    def test_refusals(self, host, fields, said):
        with pytest.raises(Failed) as failed:
            host.ask("/sdapi/v1/txt2img", {**JOB, **fields})
        assert failed.value.status == 422
        assert failed.value.body["detail"].startswith(said)


class TestGenerating:
    def test_variation_seeds(self, host):
        plain = host.txt2img().arrays[0]
        assert np.array_equal(plain, host.txt2img(subseed=9, subseed_strength=0).arrays[0])
        whole = host.txt2img(subseed=9, subseed_strength=1).arrays[0]
        assert close(whole, host.txt2img(seed=9).arrays[0])
        answer = host.txt2img(subseed=9, subseed_strength=0.3, batch_size=2)
        assert answer.info["all_seeds"] == [5, 5]
        assert answer.info["all_subseeds"] == [9, 10]
        assert not close(*answer.arrays)
        assert not close(answer.arrays[0], plain)
        assert close(answer.arrays[1], host.txt2img(subseed=10, subseed_strength=0.3).arrays[0])
        assert "Variation seed: 10, Variation seed strength: 0.3" in answer.info["infotexts"][1]

    def test_emphasis_and_long_prompts(self, host):
        plain = host.txt2img(prompt="a red cat").arrays[0]
        assert np.array_equal(plain, host.txt2img(prompt="a (red:1.0) cat").arrays[0])
        assert not close(plain, host.txt2img(prompt="a (red:1.8) cat").arrays[0])
        answer = host.txt2img(prompt="cat " * 100)
        assert answer.of("cfg_denoiser")[0][0] == [
            [2, 4, 12, 8],
            [1, 154, 64],
            [1, 154, 64],
        ]
        assert answer.info["comments"] == []

    @pytest.mark.parametrize("cfg", [0.5, 0.0])
    def test_cfg_below_1_has_no_negative_rows(self, host, cfg):
        shapes = [shapes for shapes, *_ in host.txt2img(cfg_scale=cfg).of("cfg_denoiser")]
        assert shapes == [[[1, 4, 12, 8], [1, 77, 64]]] * JOB["steps"]

    @pytest.mark.parametrize(
        ("asked", "same"),
        [
            ({"sampler_name": "DPM++ 2M Karras"}, {"sampler_name": "DPM++ 2M", "scheduler": "karras"}),
            ({"sampler_name": "k_dpmpp_2m", "scheduler": "Automatic"}, {"sampler_name": "DPM++ 2M Karras"}),
            ({"sampler_name": "Euler", "scheduler": "uniform"}, {"sampler_index": "Euler"}),
        ],
    )
    def test_noise_schedules(self, host, asked, same):
        assert np.array_equal(host.txt2img(**asked).arrays[0], host.txt2img(**same).arrays[0])

    def test_a_schedule_acts_or_it_is_said_that_it_does_not(self, host):
        plain = host.txt2img()
        karras = host.txt2img(scheduler="Karras")
        assert not close(plain.arrays[0], karras.arrays[0])
        assert "Schedule type: Karras" in karras.info["infotexts"][0]
        for schedule, said in (
            (
                "Align Your Steps",
                "The embedded host has no noise schedule Align Your Steps; it used Automatic.",
            ),
            ("karras", "The embedded host has no Karras noise schedule for Euler a; it used its own."),
        ):
            answer = host.txt2img(scheduler=schedule, sampler_name="Euler a")
            assert answer.info["comments"] == [said]
            assert close(answer.arrays[0], host.txt2img(sampler_name="Euler a").arrays[0])

    def test_one_step_starts_from_the_most_noise(self, host):
        """14.61 is k-diffusion's sigma_max for SD."""
        assert host.txt2img(steps=1).of("cfg_denoiser")[0][2][0] == pytest.approx(14.61, abs=0.01)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"steps": 0}, "steps is 0; it can be 1 to 1000"),
            ({"width": 0}, "width is 0; it can be 8 to 8192"),
            ({"height": 100000}, "height is 100000; it can be 8 to 8192"),
            ({"batch_size": 1000}, "batch_size is 1000; it can be 1 to 64"),
            ({"cfg_scale": float("nan")}, "cfg_scale is nan; it can be -100 to 100"),
            ({"subseed_strength": 2}, "subseed_strength is 2.0; it can be 0 to 1"),
        ],
    )
    def test_what_is_out_of_range_is_said(self, host, fields, said):
        with pytest.raises(Failed) as failed:
            host.txt2img(**fields)
        assert (failed.value.status, failed.value.body["errors"]) == (500, said)

    def test_a_mask_that_is_not_rounded(self, host):
        """How it blends is held against a formula in test_embedded_checkpoint_kinds.py."""
        ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (96, 1)))
        fields = {"mask": encoded(ramp), "inpaint_full_res": False, "mask_blur": 0, "inpainting_fill": 1}
        hard, soft = (host.img2img(photograph(), mask_round=r, **fields).arrays[0] for r in (True, False))
        assert not close(hard, soft)

    def test_what_inpainting_says_of_itself(self, host):
        fields = {"inpainting_mask_invert": 1, "inpainting_fill": 2, "mask": encoded(disc())}
        told = host.img2img(photograph(), **fields, mask_blur=3).info["extra_generation_params"]
        assert {key: told[key] for key in ("Mask mode", "Mask blur", "Masked content", "Inpaint area")} == {
            "Mask mode": "Inpaint not masked",
            "Mask blur": 3,
            "Masked content": "latent noise",
            "Inpaint area": "Only masked",
        }


class TestRunning:
    def test_skipping_goes_on_with_the_next_batch(self, host):
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(host.txt2img, steps=300, n_iter=2)
            for batch in range(2):
                self.wait_for_step(host, answer, batch)
                assert host.ask("/sdapi/v1/skip", {}) is None
            found = answer.result()
        assert len(found.pictures) == 2
        assert found.hooks().count("process_before_every_sampling") == 2
        assert found.hooks().count("cfg_denoiser") < 600

    def test_progress(self, host):
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(host.txt2img, steps=300)
            self.wait_for_step(host, answer, 0)
            seen = host.ask("/sdapi/v1/progress")
            without = host.ask("/sdapi/v1/progress?skip_current_image=true")
            host.ask("/sdapi/v1/interrupt", {})
            answer.result()
        assert seen["state"]["sampling_steps"] == 300
        assert seen["progress"] == pytest.approx(seen["state"]["sampling_step"] / 300, abs=0.02)
        assert seen["eta_relative"] > 0
        picture = Image.open(io.BytesIO(base64.b64decode(seen["current_image"])))
        assert picture.size == (8, 12)
        assert np.asarray(picture).std() > 5
        assert without["current_image"] is None
        assert host.ask("/sdapi/v1/progress")["current_image"] is None

    def test_two_clients_get_their_own_pictures(self, host):
        jobs = [{"seed": seed, "prompt": prompt} for seed in (1, 2, 3) for prompt in ("a cat", "snow")]
        with ThreadPoolExecutor(len(jobs)) as pool:
            together = list(pool.map(lambda job: host.txt2img(**job), jobs))
        for job, answer in zip(jobs, together, strict=True):
            assert np.array_equal(answer.arrays[0], host.txt2img(**job).arrays[0])
            assert answer.info["all_seeds"] == [job["seed"]]

    @staticmethod
    def wait_for_step(host, answer, batch):
        end = time.monotonic() + 60
        while time.monotonic() < end and not answer.done():
            state = host.ask("/sdapi/v1/progress?skip_current_image=true")["state"]
            if state["job_no"] >= batch and state["sampling_step"] >= 2:
                return
        raise AssertionError("the job never got there")


class TestPngInfo:
    def test_what_a_picture_says_of_itself(self, host):
        answer = host.txt2img(prompt='a cat: (red:1.2), "big"', scheduler="Karras", cfg_scale=4.5)
        told = host.ask("/sdapi/v1/png-info", {"image": encoded_with_info(answer.pictures[0])})
        assert told["info"] == answer.info["infotexts"][0]
        assert told["items"] == {}
        parameters = told["parameters"]
        assert parameters["Prompt"] == 'a cat: (red:1.2), "big"'
        assert parameters["Negative prompt"] == "blurry"
        again = host.txt2img(
            prompt=parameters["Prompt"],
            negative_prompt=parameters["Negative prompt"],
            steps=int(parameters["Steps"]),
            sampler_name=parameters["Sampler"],
            scheduler=parameters["Schedule type"],
            cfg_scale=float(parameters["CFG scale"]),
            seed=int(parameters["Seed"]),
            width=int(parameters["Size-1"]),
            height=int(parameters["Size-2"]),
        )
        assert np.array_equal(again.arrays[0], answer.arrays[0])

    def test_jpeg(self, host):
        """A UserComment as A1111 writes it with piexif: "UNICODE", then UTF-16."""
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "ein Kätzchen\nSteps: 3".encode("utf-16-be")
        file = io.BytesIO()
        photograph().save(file, "JPEG", exif=exif)
        told = host.ask("/sdapi/v1/png-info", {"image": base64.b64encode(file.getvalue()).decode()})
        assert told["info"] == "ein Kätzchen\nSteps: 3"

    def test_a_picture_that_says_nothing(self, host):
        told = host.ask("/sdapi/v1/png-info", {"image": "data:image/png;base64," + encoded(photograph())})
        assert told == {"info": "", "items": {}, "parameters": {}}

    @pytest.mark.parametrize("text", ["", "no picture", "aGVsbG8=", "/etc/passwd"])
    def test_no_picture(self, host, text):
        with pytest.raises(Failed) as failed:
            host.ask("/sdapi/v1/png-info", {"image": text})
        assert failed.value.body["errors"].startswith("ControlNet: The picture cannot be read.")


def encoded_with_info(picture):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", picture.info["parameters"])
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return base64.b64encode(file.getvalue()).decode()
