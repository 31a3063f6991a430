"""A session loads once what units share, embeds a hint once in a pass, and lets go of everything."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from torch import nn

from controlstack import family, plan, preprocess
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.families.controlnet import Network
from controlstack.family import Family, Start
from controlstack.hosts import unet_diffusers
from controlstack.joints import Attention, Block, Call, Control, Residuals, Row, RowKind, Site
from controlstack.preprocess import Ask, Embedding, Preprocessor
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

SIZE = 64
UNET = nets.unet(nets.SD1)
JOB = Job(width=SIZE, height=SIZE, base=unet_diffusers.base_of(UNET))
LIVE = unet_diffusers.LiveUNet(UNET)
CALL = Call(
    x=torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(0)),
    t=torch.tensor([500.0, 500.0]),
    context=torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(1)),
    y=None,
    rows=(Row(0, RowKind.UNCOND), Row(0, RowKind.COND)),
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("models")
    for i in range(3):
        nets.save(folder / f"net{i}.safetensors", nets.controlnet(nets.SD1, seed=i).state_dict())
    return Catalog([folder])


@pytest.fixture
def calls() -> Iterator[dict[str, int]]:
    """How often networks and hint encoders are called."""
    seen = {"network": 0, "hint": 0}

    def count(module: nn.Module, _: object) -> None:
        seen["network"] += type(module).__name__ == "ControlNetModel"
        seen["hint"] += type(module).__name__ == "ControlNetConditioningEmbedding"

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield seen
    hook.remove()


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def session(catalog: Catalog, *units: dict[str, object], models: Loaded | None = None) -> Session:
    asked = ({"module": "none", "model": "net0", "image": picture(i), **unit} for i, unit in enumerate(units))
    plans = [plan.resolve(i, parse(unit), JOB, catalog) for i, unit in enumerate(asked)]
    made = Session(models or Loaded(2), preprocess.Cache(), plans)
    made.prepare()
    made.begin(SIZE, SIZE, LIVE, hires=False)
    return made


def middle(made: Session) -> torch.Tensor:
    evaluation = made.step(CALL)
    assert evaluation is not None
    assert evaluation.residuals is not None
    assert evaluation.residuals.middle is not None
    return evaluation.residuals.middle


def test_units_on_one_file_share_one_network_and_keep_their_own_hints(
    catalog: Catalog, calls: dict[str, int]
) -> None:
    made = session(catalog, {}, {}, {})
    assert len({id(network) for network in made._networks}) == 1
    assert calls == {"network": 0, "hint": 3}
    total = middle(made)
    middle(made)
    assert calls == {"network": 6, "hint": 3}, "a hint is embedded once in a pass"
    alone = [middle(session(catalog, {"image": picture(i)})) for i in range(3)]
    assert (alone[0] - alone[1]).abs().mean() > 0.01
    assert torch.allclose(total, sum(alone), atol=1e-5)


def test_rows_without_control_are_not_computed(catalog: Catalog) -> None:
    made = session(
        catalog, {"control_mode": "ControlNet is more important", "advanced_weighting": [1.0] * 13}
    )
    seen: list[int] = []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: seen.append(len(args[0])) if type(module).__name__ == "ControlNetModel" else None
    )
    controlled = middle(made)
    hook.remove()
    assert seen == [1]
    assert not controlled[0].any()
    assert torch.allclose(controlled[1], middle(session(catalog, {}))[1], atol=1e-5)


def test_nothing_outlives_its_job_beyond_the_bound(catalog: Catalog) -> None:
    models = Loaded(1)
    made = session(catalog, {"model": "net0"}, {"model": "net1"}, {"model": "net2"}, models=models)
    alive = [weakref.ref(network) for network in made._networks]
    assert middle(made).any()
    gc.collect()
    assert [ref() is not None for ref in alive] == [True, True, True], "a job keeps what it uses"
    made.close()
    del made
    gc.collect()
    assert [isinstance(ref(), Network) for ref in alive] == [False, False, True], "the bound is 1"


def test_the_first_failure_is_raised_at_every_step(catalog: Catalog) -> None:
    made = session(catalog, {})
    made.fail(ControlError("It is broken", unit=0))
    made.fail(ValueError("later"))
    for _ in range(2):
        with pytest.raises(ControlError, match="ControlNet unit 0: It is broken"):
            made.step(CALL)


def test_what_never_acted_is_said_and_what_should_not_act_is_not(catalog: Catalog) -> None:
    made = session(catalog, {"guidance_start": 0.5}, {"weight": 0}, {})
    made.step(CALL)  # one evaluation of one: from 0 to 1
    said = made.close()
    assert len(said) == 1
    assert said[0].startswith("ControlNet unit 0 had no effect")
    assert "0.5 to 1" in said[0]


def test_a_map_is_fitted_to_each_pass(catalog: Catalog) -> None:
    made = session(catalog, {})
    made.begin(SIZE, SIZE, LIVE, hires=False)  # a second batch
    made.begin(2 * SIZE, SIZE + 32, LIVE, hires=True)
    assert [m.shape for m in made.maps(0)] == [(SIZE + 32, 2 * SIZE, 3), (SIZE, SIZE, 3)]


def test_a_mistake_that_surfaces_late_names_its_unit(catalog: Catalog) -> None:
    """A strip of 2 x 512 px can be a map, but cannot cover a job of 2048 x 2048 px."""
    strip = picture(0)[:1].repeat(500 // SIZE + 1, axis=1)
    with pytest.raises(ControlError, match=r"^ControlNet unit 1: The picture is too narrow"):
        session(catalog, {}, {"module": "canny", "image": strip})
    wide = picture(0)[:2].repeat(8, axis=1)
    made = session(catalog, {}, {"image": wide, "weight": 0})
    with pytest.raises(ControlError, match=r"^ControlNet unit 1: The picture is too narrow"):
        made.begin(2048, 2048, LIVE, hires=True)
    made = session(catalog, {}, {"image": wide, "weight": 0, "resize_mode": "Resize and Fill"})
    made.begin(256, 256, LIVE, hires=True)
    assert made.maps(1)[0].shape == (256, 256, 3)


def test_cached_maps_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    one = preprocess.find("invert")
    runs = []
    counting = replace(one, run=lambda image, ask: runs.append(1) or one.run(image, ask))
    first, second = picture(0), picture(1)
    for room, expected in ((2, 2), (1, 3)):
        monkeypatch.setattr(preprocess, "MAX_CACHED", room * first.nbytes)
        runs.clear()
        cache = preprocess.Cache()
        for shown in (first, first, second, first):
            cache.run(counting, shown, one.ask())
        assert len(runs) == expected


def test_a_part_of_the_picture_is_refused_with_a_sentence(catalog: Catalog) -> None:
    """As extensions call the UNet that paint in tiles; without units, nobody minds."""
    part = replace(CALL, x=CALL.x[..., :6, :4])
    with pytest.raises(ControlError, match="asked to paint 32x48 px of a picture of 64x64"):
        session(catalog, {}).step(part)
    assert session(catalog).step(part) is None


class Seen(Control):
    """Adds what its pictures' embeddings say."""

    def __init__(self, embeddings: tuple[Embedding, ...]) -> None:
        self.level = torch.stack([embedding["mean"] for embedding in embeddings]).mean()

    def residuals(self, call: Call) -> Residuals:
        return Residuals(middle=self.level.expand(len(call.rows), 128, 1, 1))


class Looking(Family):
    """A family without a file that reads embeddings, several of them."""

    name = "looking"

    def begin(self, start: Start) -> Control:
        return Seen(start.embeddings)


def test_families_that_read_embeddings_get_one_for_each_picture(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def mean(image: np.ndarray, ask: Ask) -> Embedding:
        looked.append(1)
        return {"mean": torch.tensor(float(image.mean()))}

    look = Preprocessor("look", lambda image, ask: image, "look", embed=mean, companions=("looking",))
    monkeypatch.setitem(preprocess._shelf, "look", look)
    monkeypatch.setitem(family._families, "looking", Looking())
    pictures = [picture(1), picture(2)]
    given = [{"image": one} for one in pictures]
    made = session(catalog, {"module": "look", "model": "None", "image": given})
    made.begin(SIZE, SIZE, LIVE, hires=False)
    expected = np.mean([one.mean() for one in pictures])
    assert float(middle(made).mean()) == pytest.approx(expected)
    assert len(looked) == 2, "an embedding is made once, whatever the passes"

    with pytest.raises(ControlError, match="makes embeddings, but 'net0' reads a map"):
        session(catalog, {"module": "look"})
    with pytest.raises(ControlError, match="It got 2 pictures"):
        session(catalog, {"image": given})


class Inverting(Family):
    """A family without a file that turns the finished picture over, and x0 by one."""

    name = "inverting"

    def begin(self, start: Start) -> Control:
        return Inverted()


class Inverted(Control):
    def picture(self, picture: torch.Tensor, index: int) -> torch.Tensor:
        return 1 - picture

    def attended(self, site: Site, attention: Attention, call: Call) -> torch.Tensor:
        return torch.ones_like(attention.out)


@pytest.fixture
def inverting(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A unit whose preprocessor brings that family beside a model."""
    invert = Preprocessor("turn", lambda image, ask: image, "turn", companions=("inverting",))
    monkeypatch.setitem(preprocess._shelf, "turn", invert)
    monkeypatch.setitem(family._families, "inverting", Inverting())
    return {"module": "turn"}


def test_a_finished_picture_changes_only_where_a_unit_acted(
    catalog: Catalog, inverting: dict[str, object]
) -> None:
    made, half = torch.rand(3, SIZE, SIZE), np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255

    def finished(index: int = 0, **fields: object) -> torch.Tensor:
        running = session(catalog, {**inverting, **fields})
        running.step(CALL)
        return running.picture(made, index)

    assert torch.equal(finished(), 1 - made)
    assert torch.equal(finished(guidance_start=0.5), made), "no evaluation lies in its window"
    assert torch.equal(finished(batch_weights=[1, 0], index=1), made)
    masked = finished(effective_region_mask=half)
    assert torch.equal(masked[..., SIZE // 2 :], made[..., SIZE // 2 :])
    torch.testing.assert_close(masked[..., : SIZE // 2], 1 - made[..., : SIZE // 2])


def test_weights_of_layers_are_the_models_and_not_its_companions(
    catalog: Catalog, inverting: dict[str, object]
) -> None:
    tokens = torch.zeros(2, 4, 8)
    at = Site(Block("input", 1), 0, cross=True), Attention(*[tokens] * 4, 2, lambda _: (tokens, tokens))
    changes = []
    for fields in ({"advanced_weighting": [0.0] * 13}, {}):
        evaluation = session(catalog, {**inverting, "weight": 0.5, **fields}).step(CALL)
        assert evaluation is not None
        assert evaluation.residuals is not None
        assert bool(evaluation.residuals.skips[0].any()) == (not fields)
        changes.append(evaluation.attended(*at))
    assert all(change is not None and torch.equal(change, 0.5 + tokens) for change in changes)
