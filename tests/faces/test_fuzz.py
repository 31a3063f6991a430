"""Requests that nobody would write: the routes from their OpenAPI schema, units up to the plan."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nets
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_api import Host

from controlstack import plan
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.faces import api
from controlstack.hosts import unet_diffusers
from controlstack.image import encode_png
from controlstack.sources import Job
from controlstack.unit import ControlNetUnit, parse

schemathesis = pytest.importorskip("schemathesis")


@contextmanager
def served() -> Iterator[FastAPI]:
    with tempfile.TemporaryDirectory() as folder:
        app = FastAPI()
        api.register(app, Host(Path(folder)))
        yield app


with served() as application:
    schema = schemathesis.openapi.from_asgi("/openapi.json", application)


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_request_is_answered_with_a_failure_of_the_server(case) -> None:
    """Whatever is sent: an answer of the documented form, or 4xx with a sentence."""
    answer = case.call()
    assert answer.status_code < 500
    if answer.status_code == 422:
        assert answer.json()["detail"]


UNET = nets.unet(nets.SD1)
JOB = Job(width=64, height=64, base=unet_diffusers.base_of(UNET))
PICTURE = encode_png(np.zeros((64, 64, 3), np.uint8))
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(PICTURE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
units = st.fixed_dictionaries(
    {"module": st.sampled_from(["canny", "none", "inpaint_only", "shuffle"]) | json_like},
    optional={name: json_like for name in vars(ControlNetUnit()) if name != "module"},
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("models")
    nets.save(folder / "net.safetensors", nets.controlnet(nets.SD1).state_dict())
    return Catalog([folder])


@given(units, st.sampled_from(["net", None]), st.sampled_from([PICTURE, None]))
@settings(max_examples=300, deadline=None)
def test_a_unit_resolves_or_is_refused_as_a_mistake(catalog: Catalog, unit, model, picture) -> None:
    unit |= {"model": model} if model else {}
    unit |= {"image": picture} if picture else {}
    with suppress(ControlError):
        plan.resolve(0, parse(unit), JOB, catalog)
