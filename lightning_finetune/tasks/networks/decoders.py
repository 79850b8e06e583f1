"""The names of the decoders, apart from the library that has them, which is slow to load."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Decoder: TypeAlias = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
]
DEFAULT_BACKBONE = "tf_efficientnet_lite0"
"""Its weights come with the installation."""

DECODERS: tuple[str, ...] = get_args(Decoder)
