"""The synthetic scenes: what a caption says is in the picture, and the truth belongs to it."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from controlstack.train.demo import readouts
from controlstack.train.demo.scenes import CLASSES, COLOURS, Scene, scene

SCENES = [scene(seed) for seed in range(40)]


def test_a_seed_gives_one_scene() -> None:
    again = scene(7)
    assert np.array_equal(again.picture, SCENES[7].picture)
    assert again.caption == SCENES[7].caption
    assert not np.array_equal(scene(8).picture, again.picture)


def test_every_object_of_the_caption_is_seen_and_in_its_class() -> None:
    for one in SCENES:
        assert one.picture.shape == (128, 128, 3)
        for colour, _ in one.objects:
            assert colour in one.caption
        front = one.objects[-1]
        assert (one.classes == CLASSES.index(front[1])).sum() > 100


def test_objects_stand_nearer_than_what_is_behind_them() -> None:
    """An object's depth is at least that of the ground where it stands, and of the far backdrop, 0."""
    for one in SCENES:
        solids = one.classes >= 2
        assert one.depth[solids].min() > one.depth[one.classes == 0].max(initial=0) - 1e-6


def test_light_and_hue_tell_nothing_of_class_or_depth() -> None:
    """Over many scenes every colour goes with every kind, and bright pictures are no nearer."""
    pairs = {pair for seed in range(400) for pair in scene(seed).objects}
    assert len(pairs) == len(COLOURS) * (len(CLASSES) - 2)
    brightness = [one.picture.mean() for one in SCENES]
    nearness = [one.depth[one.classes >= 2].mean() for one in SCENES]
    assert abs(np.corrcoef(brightness, nearness)[0, 1]) < 0.4  # 40 draws: |r| of 0.4 has p = 0.01


def test_key_points_lie_on_their_figure() -> None:
    seen = [(one, body) for one in SCENES for body in one.people]
    assert len(seen) >= 3
    for one, body in seen:
        figure = cv2.dilate((one.classes == CLASSES.index("figure")).astype(np.uint8), np.ones((3, 3)))
        inside = [(int(y), int(x)) for x, y, there in body if there and 0 <= x < 128 and 0 <= y < 128]
        share = np.mean([figure[spot] for spot in inside])
        assert share > 0.6  # the rest is hidden by nearer objects


def test_edges_of_two_scenes_have_little_in_common() -> None:
    edges = [cv2.Canny(one.picture, 100, 200) > 0 for one in SCENES]
    alike = [readouts.edge_f1(a, b) for a, b in pairwise(edges)]
    assert np.mean(alike) < 0.2


@pytest.mark.parametrize("one", SCENES[:8], ids=lambda one: one.caption)
def test_the_caption_reads_like_a_sentence(one: Scene) -> None:
    assert one.caption.startswith(("a ", "an "))
    assert one.caption.endswith(("daylight", "evening light"))
