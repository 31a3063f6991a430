"""The control types people choose from: each offers preprocessors, models, and a pair to start with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controlstack import preprocess
from controlstack.preprocess import Preprocessor

ALL = "All"
NONE = "None"

# What the name of a model contains (in lower case) that belongs to a control type, as in sd-webui-controlnet.
_IN_NAMES = {
    "Canny": ("canny", "union"),
    "Depth": ("depth", "union"),
    "IP-Adapter": ("ip-adapter", "ip_adapter", "ipadapter"),
    "Inpaint": ("inpaint", "union"),
    "Instant-ID": ("instant-id", "instant_id", "instantid"),
    "InstructP2P": ("instructp2p", "ip2p"),
    "Lineart": ("lineart", "union"),
    "MLSD": ("mlsd", "union"),
    "NormalMap": ("normal", "union"),
    "OpenPose": ("openpose", "densepose", "union"),
    "Recolor": ("recolor",),
    "Reference": ("reference",),
    "Revision": ("revision",),
    "Scribble": ("scribble", "sketch", "union"),
    "Segmentation": ("seg", "union"),
    "Shuffle": ("shuffle",),
    "SoftEdge": ("softedge", "union"),
    "SparseCtrl": ("sparsectrl",),
    "T2I-Adapter": ("t2i-adapter", "t2i_adapter", "t2ia"),
    "Tile": ("tile", "blur", "union"),
}


@dataclass(frozen=True)
class ControlType:
    """What a control type offers.

    preprocessors: `none` first, then in the shelf's order
    models: "None" first, then the names it was given, in their order
    """

    name: str
    preprocessors: tuple[Preprocessor, ...]
    models: tuple[str, ...]

    @property
    def default_option(self) -> Preprocessor:
        """The first that does something; for `ALL`, and where there is none, `none`."""
        return self.preprocessors[0 if self.name == ALL else min(1, len(self.preprocessors) - 1)]

    @property
    def default_model(self) -> str:
        """The first of ControlNet 1.1 (its names say "v11"), else the first; for `ALL` no model."""
        models = () if self.name == ALL else self.models[1:]
        return next((name for name in models if "11" in _stem(name)), next(iter(models), NONE))


def everything(models: Sequence[str]) -> list[ControlType]:
    """All control types, `ALL` first, then by name. `models`: names to choose from, "stem [hash]".

    A control type that only a preprocessor mentions is one too; its models bear its name.
    """
    shelf = preprocess.everything()
    mentioned = {name for preprocessor in shelf for name in preprocessor.control_types}
    types = [ControlType(ALL, tuple(shelf), (NONE, *models))]
    for name in sorted(mentioned | _IN_NAMES.keys()):
        offered = tuple(p for p in shelf if p.name == "none" or name in p.control_types)
        words = _IN_NAMES.get(name, (name.lower(),))
        fitting = (model for model in models if any(word in _stem(model) for word in words))
        types.append(ControlType(name, offered, (NONE, *fitting)))
    return types


def _stem(model: str) -> str:
    return model.partition("[")[0].lower()
