"""segments: real loading, random weights, against the networks called directly and other implementations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import weights

from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.packages import take
from controlstack.palettes import ADE20K, COCO
from controlstack.preprocess import find

IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)


@pytest.fixture(scope="module")
def picture(astronaut: Array) -> Array:
    return cv2.resize(astronaut, (80, 64), interpolation=cv2.INTER_AREA)


def _run(name: str, picture: Array, networks: Networks) -> Array:
    preprocessor = find(name)
    return preprocessor.run(picture, replace(preprocessor.ask(min(picture.shape[:2])), networks=networks))


def _room(name: str) -> Any:
    return sys.modules[find(name).run.__module__]


def _seen(picture: Array, width: int, height: int) -> torch.Tensor:
    """What a network that learned from ImageNet reads of a picture, padded to multiples of 64 px before."""
    h, w = picture.shape[:2]
    padded = np.pad(picture, ((0, -h % 64), (0, -w % 64), (0, 0)), mode="edge")
    resized = cv2.resize(padded, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    return torch.from_numpy((resized - IMAGENET[0]) / IMAGENET[1]).permute(2, 0, 1)[None]


def test_the_palettes():
    """Ends and some of the middle of ADE20K's and COCO's, from the datasets' own lists."""
    assert [tuple(ADE20K[i]) for i in (0, 2, 12, 149)] == [
        (120, 120, 120),
        (6, 230, 230),
        (150, 5, 61),
        (92, 0, 255),
    ]
    assert [tuple(COCO[i]) for i in (0, 17, 132)] == [(220, 20, 60), (182, 182, 255), (250, 141, 255)]
    assert (ADE20K.shape, COCO.shape) == ((150, 3), (133, 3))


def _oneformer() -> dict[str, torch.Tensor]:
    """Layout: OneFormerForUniversalSegmentation of transformers 4.57, with a Swin of width 12, 10 queries."""
    return weights.listed("oneformer.txt") | {"criterion.logit_scale": torch.empty(())}


def test_oneformer(tmp_path: Path, picture: Array):
    """To save time it reads a short side of 128 px."""
    transformers = pytest.importorskip("transformers")
    layout = _oneformer()
    state, random = weights.like(layout), torch.Generator().manual_seed(1)
    for key, tensor in state.items():  # queries that differ, and classes and masks that follow from it
        if "transformer_module" in key and tensor.dim() == 2:
            gain = (
                20 if "class_embed" in key or "mask_embed.layers.2" in key else 3 if "queries" in key else 1
            )
            state[key] = gain * torch.randn(tensor.shape, generator=random) / tensor.shape[1] ** 0.5
    file, room = find("oneformer_ade20k").files[0], _room("oneformer_ade20k")
    networks = weights.published(tmp_path, file, state)
    ask = replace(find("oneformer_ade20k").ask(64), networks=networks)
    ours = room._classes(picture, ask, file, 128, 512)

    network = networks.get(file, room._network)
    assert network.config.backbone_config.num_heads == [1, 2, 3, 3]
    assert network.config.backbone_config.window_size == 4
    task = torch.zeros(1, 77, dtype=torch.int64)
    task[0, :7] = torch.tensor([49406, 518, 10549, 533, 29119, 1550, 49407])
    with torch.no_grad():
        found = network(pixel_values=_seen(picture, 256, 128), task_inputs=task)
    processor = transformers.OneFormerImageProcessor
    theirs = processor.post_process_semantic_segmentation(None, found, target_sizes=[(64, 128)])[0]
    assert np.array_equal(ours, theirs.numpy()[:, :80])
    assert len(np.unique(ours)) > 1


def test_oneformer_counts_coco_s_classes():
    pytest.importorskip("transformers")
    layout = _oneformer()
    last = "model.transformer_module.decoder.class_embed"
    layout |= {f"{last}.weight": torch.empty(134, 256), f"{last}.bias": torch.empty(134)}
    layout["criterion.empty_weight"] = torch.empty(134)
    network = _room("oneformer_coco")._network(weights.like(layout))
    assert network.config.num_labels == len(COCO)


def test_oneformer_reads_what_it_was_trained_for(monkeypatch: pytest.MonkeyPatch, picture: Array):
    """The sizes of detectron2's configuration files: MIN_SIZE_TEST and MAX_SIZE_TEST."""
    asked = []
    room = _room("oneformer_coco")
    monkeypatch.setattr(
        room, "_classes", lambda *given: asked.append(given[2:]) or np.full((64, 80), 17, np.uint8)
    )
    ade20k, coco = (find(name).run(picture, find(name).ask()) for name in ("seg_ofade20k", "seg_ofcoco"))
    assert asked == [(room.ADE20K_WEIGHTS, 640, 2560), (room.COCO_WEIGHTS, 800, 1333)]
    assert (ade20k == ADE20K[17]).all()
    assert (coco == COCO[17]).all()


def test_upernet(tmp_path: Path, picture: Array):
    """Layout: UperNetForSemanticSegmentation of transformers 4.57 with ConvNeXt of widths 8 to 32."""
    pytest.importorskip("transformers")
    name = "segmentation"
    networks = weights.published(tmp_path, find(name).files[0], weights.like(weights.listed("upernet.txt")))
    ours = _run(name, picture, networks)
    network = networks.get(find(name).files[0], _room(name)._network)
    with torch.no_grad():
        scores = network(_seen(picture, 1024, 512)).logits
        scores = torch.nn.functional.interpolate(scores, (64, 128), mode="bilinear", align_corners=False)
    assert np.array_equal(ours, ADE20K[scores[0].argmax(0).numpy()][:, :80])
    assert len(np.unique(ours.reshape(-1, 3), axis=0)) > 3


def test_a_gap_in_the_weights_is_refused(tmp_path: Path, picture: Array):
    state = weights.like(weights.listed("upernet.txt"))
    del state["decode_head.fpn_bottleneck.conv.weight"]
    networks = weights.published(tmp_path, find("segmentation").files[0], state)
    with pytest.raises(ControlError, match=r"another network.*decode_head\.fpn_bottleneck\.conv\.weight"):
        _run("segmentation", picture, networks)


def test_anime_face(tmp_path: Path, astronaut: Array):
    """Every 64th pixel of what sd-webui-controlnet's class makes of these weights in this photograph."""
    pytest.importorskip("torchvision")
    state = weights.like(weights.listed("anime_face.txt"), 3)
    networks = weights.published(tmp_path, find("anime_face_segment").files[0], state)
    ours = _run("seg_anime_face", astronaut, networks)
    expected = [
        "16666666",
        "16161611",
        "16166611",
        "66111661",
        "16111611",
        "11111661",
        "11611111",
        "64444440",
    ]
    colours = _room("seg_anime_face").COLOURS
    assert np.array_equal(ours[32::64, 32::64], colours[[[int(part) for part in row] for row in expected]])


def _best_of_each(
    boxes: torch.Tensor, fits: torch.Tensor, _: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """torchvision's batched_nms of one category, whose compiled part is not everywhere."""
    from torchvision.ops import box_iou

    kept: list[int] = []
    for index in fits.argsort(descending=True, stable=True).tolist():
        if not kept or not (box_iou(boxes[[index]], boxes[kept]) > iou_threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.mark.filterwarnings("ignore")
def test_mobile_sam(
    controlnet_aux: Callable[[str], ModuleType],
    tmp_path: Path,
    picture: Array,
    monkeypatch: pytest.MonkeyPatch,
):
    """Masks of controlnet_aux 0.0.10's own generator, at four points, with what random ones are sure of."""
    pytest.importorskip("timm")
    generator = controlnet_aux("segment_anything.automatic_mask_generator")
    network = controlnet_aux("segment_anything.build_sam").build_sam_vit_t()
    state = weights.like(network)
    for name, tensor in state.items():
        if "hypernetworks_mlps" in name and "layers.2" in name:
            state[name] = tensor * 3  # random logits are so near 0 that none would be steady
    network.load_state_dict(state)
    networks = weights.published(tmp_path, find("mobile_sam").files[0], state)
    monkeypatch.setattr(generator, "batched_nms", _best_of_each)
    room = _room("mobile_sam")
    for name, value in dict(POINTS=2, AT_ONCE=3, FITS=-1e9, STEADY=0.6, MOST_SHARED=1.0).items():
        monkeypatch.setattr(room, name, value)
    painted: list[Any] = []
    monkeypatch.setattr(
        room, "_painted", lambda masks, *_: painted.extend(masks) or np.zeros((64, 128, 3), np.uint8)
    )
    _run("mobile_sam", picture, networks)
    everything = generator.SamAutomaticMaskGenerator(
        network,
        points_per_side=2,
        points_per_batch=4,
        pred_iou_thresh=0,
        stability_score_thresh=0.6,
        box_nms_thresh=1.0,
    )
    padded = np.pad(picture, ((0, 0), (0, 48), (0, 0)), mode="edge")
    theirs = [one["segmentation"] for one in everything.generate(padded)]
    assert len(theirs) > 2
    assert {mask.tobytes() for mask in painted} == {mask.tobytes() for mask in theirs}


def test_sam2(tmp_path: Path, picture: Array, monkeypatch: pytest.MonkeyPatch):
    """Sam2Model of transformers, called with the picture and all points at once."""
    transformers = pytest.importorskip("transformers", "4.56")
    network = transformers.Sam2Model(transformers.Sam2Config()).eval()
    state = weights.like(network)
    network.load_state_dict(state)
    networks = weights.published(tmp_path, find("sam2").files[0], state)
    room = _room("sam2")
    for name, value in dict(POINTS=2, AT_ONCE=3, FITS=-1e9, STEADY=0.0, MOST_SHARED=2.0).items():
        monkeypatch.setattr(room, name, value)
    ours = _run("sam2", picture, networks)
    points = torch.tensor([[256.0, 256], [768, 256], [256, 768], [768, 768]])[None, :, None]
    with torch.no_grad():
        found = network(pixel_values=_seen(picture, 1024, 1024), input_points=points)
    masks = torch.nn.functional.interpolate(found.pred_masks[0], (64, 128), mode="bilinear") > 0
    masks = sorted(masks.flatten(0, 1).numpy(), key=lambda mask: -mask.sum())
    assert np.array_equal(ours, room._painted(masks, 64, 128, 0)[:, :80])


def test_things_are_painted_small_over_large(tmp_path: Path):
    """Of two masks in nearly one box the better stays; the smaller lies above; the seed gives the colours."""
    room = _room("sam2")
    large, same, small = np.zeros((3, 8, 8), bool)
    large[1:7, 1:7] = same[1:7, 1:6] = small[2:4, 2:4] = True
    logits = torch.from_numpy(np.stack([same, large, small])[None]).float() * 8 - 4
    fits = torch.tensor([[0.9, 0.95, 0.92]])
    room_points = room.POINTS
    masks = room._everything(lambda points: (logits, fits) if len(points) else None, torch.device("cpu"))
    assert room_points == 32
    assert [mask.tolist() for mask in masks] == [large.tolist(), small.tolist()]
    drawing = room._painted(masks, 8, 8, 5)
    assert not drawing[0].any()
    assert len(np.unique(drawing.reshape(-1, 3), axis=0)) == 3
    assert tuple(drawing[3, 3]) != tuple(drawing[5, 5])
    assert np.array_equal(drawing, room._painted(masks, 8, 8, 5))
    assert not np.array_equal(drawing, room._painted(masks, 8, 8, 6))


def test_a_package_that_is_too_old_is_said():
    pytest.importorskip("transformers")
    with pytest.raises(ControlError, match=r"The package transformers \d.* has no Sam77Model") as caught:
        take("transformers", "Sam77Model")
    assert "pip install --upgrade transformers" in str(caught.value)
