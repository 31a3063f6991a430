"""The order of examples and all that is drawn depend on the seed and the number of a sample alone."""

from __future__ import annotations

from itertools import islice

import torch
from hypothesis import given
from hypothesis import strategies as st
from training import Shapes

from controlstack.train.samples import Numbers, Samples

TIMESTEPS = 1000


@given(length=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_every_epoch_has_every_example_once(length, seed):
    data = [{"latent": torch.zeros(1, 1, 1), "index": i} for i in range(length)]
    samples = Samples(data, seed, 0.5, TIMESTEPS)
    for epoch in range(3):
        seen = [samples[epoch * length + i]["index"] for i in range(length)]
        assert sorted(seen) == list(range(length))


@given(first=st.integers(0, 100), batch=st.integers(1, 6), processes=st.integers(1, 4))
def test_processes_and_later_starts_share_the_same_numbers(first, batch, processes):
    """Source: counting on from the samples that all processes have seen."""
    each = [list(islice(Numbers(first, batch, processes, rank), 3)) for rank in range(processes)]
    start = first * batch * processes
    together = [number for nth in zip(*each, strict=True) for part in nth for number in part]
    assert together == list(range(start, start + 3 * batch * processes))


def test_a_sample_is_the_same_whenever_it_is_drawn():
    once, again = (Samples(Shapes(), 3, 0.5, TIMESTEPS) for _ in range(2))
    for number in (0, 7, 8, 1000):
        first, second = once[number], again[number]
        assert all(torch.equal(first[name], second[name]) for name in ("noise", "draw", "timestep", "kept"))
    others = (Samples(Shapes(), 4, 0.5, TIMESTEPS)[0], once[1])
    assert all(not torch.equal(once[0]["noise"], other["noise"]) for other in others)


def test_draws_have_the_moments_they_should():
    """Four standard errors around the values of the uniform, Bernoulli and normal distributions."""
    count = 2000
    samples = Samples([{"latent": torch.zeros(4, 8, 8)}], 0, 0.3, TIMESTEPS)
    drawn = [samples[number] for number in range(count)]
    kept = torch.stack([sample["kept"] for sample in drawn]).float().mean()
    assert abs(kept - 0.7) < 4 * (0.3 * 0.7 / count) ** 0.5
    timesteps = torch.stack([sample["timestep"] for sample in drawn]).double()
    assert abs(timesteps.mean() - 499.5) < 4 * (TIMESTEPS**2 / 12 / count) ** 0.5
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    noise = torch.stack([sample["noise"] for sample in drawn])
    assert noise.shape[1:] == (4, 8, 8)
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
