"""The network of both classifiers: a backbone with a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_finetune.data.block.options import Stats
from lightning_finetune.engine.argument_types import warn_unused
from lightning_finetune.engine.layer_groups import LayerGroup, layer_groups
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.networks.backbones import build_backbone
from lightning_finetune.tasks.networks.heads import DROPOUT, HEADS, POOLING, HeadName, build_head
from lightning_finetune.tasks.networks.levels import level_features, watch_levels
from lightning_finetune.tasks.shared.arguments import choose


class Classifier(nn.Module):
    """A backbone with a head.

    Args:
        backbone: Images to features.
        head: Features to logits; an ``nn.Identity`` where the backbone gives logits.
        normalization: Statistics of the images that the backbone was trained on, where known.
        levels: Modules of the backbone whose outputs the head sees too, see
            :func:`~lightning_finetune.tasks.networks.levels.watch_levels`.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, normalization: Stats | None, levels: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.normalization = normalization
        self.levels = tuple(levels)
        self._pooling = sum(1 for _ in takewhile(lambda layer: isinstance(layer, POOLING), _layers(head)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_outputs]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.head(self._features(images))
        return logits

    def forward_features(self, images: Tensor) -> Tensor:
        """Features of images ``[B, C, H, W]``, pooled: what the first layer of the head that learns is given."""
        features = self._features(images)
        for layer in _layers(self.head)[: self._pooling]:
            features = layer(features)
        return features

    def _features(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        if self.levels:
            return level_features(self.backbone, self.levels, images)
        features: Tensor = self.backbone(images)
        return features

    @property
    def linear(self) -> nn.Linear | None:
        """The layer that takes the features, where the head has no other that learns."""
        last = [layer for layer in _layers(self.head) if any(True for _ in layer.parameters())]
        return last[0] if len(last) == 1 and isinstance(last[0], nn.Linear) else None

    def layer_groups(self) -> dict[str, LayerGroup]:
        """Groups of the backbone, then the head, from the input on."""
        groups = {group.name: group for group in layer_groups(self.backbone, only=self.backbone.parameters())}
        head = LayerGroup("head", tuple(self.head.parameters()))
        return {**groups, "head": head} if head.params else groups


def _layers(head: nn.Module) -> list[nn.Module]:
    return list(head) if isinstance(head, nn.Sequential) else [head]


def _ends_in_outputs(module: nn.Module, width: int) -> bool:
    """Whether the last layer that learns looks like a head: linear, to another number of outputs."""
    last = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))][-1:]
    return any(isinstance(layer, nn.Linear) and layer.out_features == width != layer.in_features for layer in last)


def build_classifier(arguments: Mapping[str, Any], num_outputs: int) -> Classifier:
    """The network that a classifier's arguments ask for.

    Args:
        arguments: ``model``, ``weights``, ``in_channels``, ``head`` and ``dropout``.
        num_outputs: Logits of one image.

    Raises:
        FinetuneError: An argument out of range, or a backbone without parameters.
        CheckpointError: Weights that do not fit.
    """
    model, head, dropout = arguments["model"], choose("head", arguments["head"], HEADS), arguments["dropout"]
    dropout = DROPOUT[head] if dropout is None else dropout
    if not 0 <= dropout < 1:
        raise FinetuneError(f"Expected `dropout` in [0, 1), got {dropout}.")
    backbone = build_backbone(
        model, in_channels=arguments["in_channels"], weights=arguments["weights"], pooled=head != "concat_pool"
    )
    if isinstance(model, nn.Module) and not backbone.is_map and backbone.channels == num_outputs:
        why = "`model` gives the outputs itself"
        warn_unused("The task", arguments, {"head": ("multi_level", "linear"), "dropout": (None, 0.0)}, why)
        return Classifier(backbone.module, nn.Identity(), backbone.normalization)
    if isinstance(model, nn.Module) and _ends_in_outputs(model, backbone.channels):
        rank_zero_warn(
            f"`model` ends in a linear layer of {backbone.channels} outputs, and a new head of {num_outputs} is put on "
            f"top of them. If they are classes, give that layer {num_outputs} outputs, or take it away: "
            "model.fc = torch.nn.Identity()."
        )
    levels = watch_levels(backbone.module, arguments["in_channels"]) if _shows_levels(head, model) else {}
    channels, is_map = backbone.channels + sum(levels.values()), backbone.is_map and not levels
    top = build_head(head, channels, num_outputs, dropout=dropout, is_map=is_map)
    return Classifier(backbone.module, top, backbone.normalization, list(levels))


def _shows_levels(head: HeadName, model: str | nn.Module) -> bool:
    """A module of the user's shows what it gives alone: nothing is attached to it."""
    return head == "multi_level" and isinstance(model, str)
