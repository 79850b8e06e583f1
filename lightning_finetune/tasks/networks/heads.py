"""Heads that turn a backbone's features into logits."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

HeadName: TypeAlias = Literal["multi_level", "linear", "concat_pool"]

HEADS: tuple[str, ...] = get_args(HeadName)
DROPOUT: dict[HeadName, float] = {"multi_level": 0.2, "linear": 0.2, "concat_pool": 0.5}
"""Probability before the last layer where none is given: EfficientNet's own, and the lessons'."""

HIDDEN = 512
"""Width of the lessons' head between its two linear layers."""


class ConcatPool2d(nn.Module):
    """Global maximum and mean of a feature map, side by side: ``[B, C, H, W]`` to ``[B, 2 * C]``."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features`` ``[B, C, H, W]``."""
        return torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)


POOLING = (ConcatPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
"""Layers that a head may begin with, which neither train nor draw."""


def build_head(name: HeadName, channels: int, num_outputs: int, *, dropout: float, is_map: bool) -> nn.Sequential:
    """A head for features of ``channels`` channels.

    ``"concat_pool"`` is the head of the lessons (fastai's ``create_head``): maximum and mean pooling side by side, then
    twice batch norm, dropout and a linear layer without bias; the first dropout is half the second. The others are one
    linear layer.

    Args:
        name: Which head.
        channels: Of the features.
        num_outputs: Logits for each image.
        dropout: Probability before the last linear layer.
        is_map: Features are a map ``[B, C, H, W]``, to be pooled; otherwise ``[B, C]``.
    """
    if name != "concat_pool":
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if is_map else []
        return _init(nn.Sequential(*pool, nn.Dropout(dropout), nn.Linear(channels, num_outputs)))
    wide = 2 * channels if is_map else channels
    return _init(
        nn.Sequential(
            ConcatPool2d() if is_map else nn.Flatten(),
            nn.BatchNorm1d(wide),
            nn.Dropout(dropout / 2),
            nn.Linear(wide, HIDDEN, bias=False),  # the norm that follows has one
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(HIDDEN),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_outputs, bias=False),
        )
    )


def _init(head: nn.Sequential) -> nn.Sequential:
    """He et al. 2015 (https://arxiv.org/abs/1502.01852) for linear layers; norms start at 1 and fastai's 1e-3."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            nn.init.constant_(layer.bias, 1e-3)
    return head
