"""Who somebody is, for IP-Adapter FaceID: what a network for faces knows of the largest face."""

from __future__ import annotations

from torch.nn.functional import normalize

from controlstack.embeddings import FACE, RAW_FACE
from controlstack.face_analysis import BUFFALO, known, largest
from controlstack.image import Array
from controlstack.preprocess import Ask, Embedding, Preprocessor, register


def shown(image: Array, ask: Ask) -> Array:
    """The picture itself."""
    return image.copy()


def embed(image: Array, ask: Ask) -> Embedding:
    """`face_embeds` and `raw_face_embeds`, both "1 512"."""
    face = largest(image, BUFFALO, ask.networks)
    found = known(image, face, BUFFALO, ask.networks)
    return {FACE: normalize(found), RAW_FACE: found}


register(
    Preprocessor(
        name="ip-adapter_face_id",
        run=shown,
        embed=embed,
        label="ip-adapter_face_id",
        control_types=("IP-Adapter",),
        resolution=None,
        shows_control_mode=False,
        network="InsightFace's buffalo_l",
        files=BUFFALO.files,
    )
)
