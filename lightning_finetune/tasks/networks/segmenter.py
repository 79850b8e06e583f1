"""The network of the segmentation task: an encoder with a decoder, for images of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from lightning_finetune.data.block.options import IMAGENET, Stats
from lightning_finetune.engine.argument_types import warn_unused
from lightning_finetune.engine.layer_groups import LayerGroup, layer_groups
from lightning_finetune.errors import FinetuneError, did_you_mean
from lightning_finetune.tasks.networks.backbones import normalization_of, packaged_weights
from lightning_finetune.tasks.networks.decoders import DECODERS, DEFAULT_BACKBONE
from lightning_finetune.tasks.networks.downloads import from_hub
from lightning_finetune.tasks.networks.weights import load_weights
from lightning_finetune.tasks.shared.arguments import choose

TIMM = "tu-"
"""How segmentation-models-pytorch marks an encoder of timm."""


class Segmenter(nn.Module):
    """A network for masks that takes any image size: pads to what its encoder divides by, and cuts the logits.

    Args:
        network: ``[B, C, H, W]`` to logits ``[B, num_classes, H, W]``, for sizes that ``stride`` divides.
        stride: In pixels.
        normalization: Statistics of the images that the encoder was trained on, where known.
    """

    def __init__(self, network: nn.Module, stride: int, normalization: Stats | None) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.normalization = normalization

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes, H, W]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.network(self._padded(images))
        return logits[..., : images.shape[-2], : images.shape[-1]]

    def _padded(self, images: Tensor) -> Tensor:
        """Images of a size that ``stride`` divides, the last rows and columns repeated; channels last."""
        pad = (0, -images.shape[-1] % self.stride, 0, -images.shape[-2] % self.stride)
        padded = nn.functional.pad(images, pad, mode="replicate") if any(pad) else images
        return padded.contiguous(memory_format=torch.channels_last)

    def layer_groups(self) -> dict[str, LayerGroup]:
        """Groups of the encoder, the decoder, the head."""
        return {group.name: group for group in layer_groups(self.network, only=self.network.parameters())}


def build_segmenter(arguments: Mapping[str, Any], num_classes: int) -> Segmenter:
    """The network that a segmentation task's arguments ask for.

    Args:
        arguments: ``model``, ``backbone``, ``weights`` and ``in_channels``.
        num_classes: Logits of one pixel.

    Raises:
        FinetuneError: An unknown decoder or encoder, two that do not go together, or a download that fails.
        CheckpointError: Weights that do not fit the encoder.
    """
    model, weights, channels = arguments["model"], arguments["weights"], arguments["in_channels"]
    if isinstance(model, nn.Module):
        if not isinstance(weights, bool):
            load_weights(model, weights)
        warn_unused("The task", arguments, {"backbone": (DEFAULT_BACKBONE,)}, "`model` is a whole network")
        return Segmenter(model, 1, normalization_of(model, channels))
    choose("model", model, DECODERS)
    backbone = arguments["backbone"]
    encoder = encoder_name(backbone)
    packaged = packaged_weights(backbone) if weights is True else None
    hub = weights is True and packaged is None

    def build() -> nn.Module:
        return _create(model, encoder, "imagenet" if hub else None, channels, num_classes)

    network: Any = from_hub(build, backbone) if hub else build()
    source = packaged if weights is True else weights
    if source:
        load_weights(getattr(network.encoder, "model", network.encoder), source, part=True)  # timm's are wrapped
    stride = int(getattr(network.encoder, "output_stride", 32))
    return Segmenter(network, stride, _statistics(encoder, channels))


def encoder_name(backbone: str) -> str:
    """The name by which segmentation-models-pytorch knows an encoder: timm's where timm has it.

    Raises:
        FinetuneError: Neither has it.
    """
    name = backbone.removeprefix(TIMM)
    if timm.is_model(name):
        return TIMM + name
    own = smp.encoders.get_encoder_names()
    if name not in own:
        raise FinetuneError(
            f"Expected `backbone` to be an encoder of timm or segmentation-models-pytorch, got {backbone!r}."
            f"{did_you_mean(name, [*timm.list_models(), *own])}"
        )
    return name


def _create(model: str, encoder: str, weights: str | None, in_channels: int, num_classes: int) -> nn.Module:
    try:
        network: nn.Module = smp.create_model(
            model, encoder_name=encoder, encoder_weights=weights, in_channels=in_channels, classes=num_classes
        )
        return network
    except (TypeError, ValueError, AttributeError, NotImplementedError, AssertionError) as error:
        raise FinetuneError(
            f"Expected a `backbone` that the decoder {model!r} can take, got {encoder.removeprefix(TIMM)!r}: {error} "
            "Most decoders need feature maps at several sizes, as convolutional networks give them."
        ) from error


def _statistics(encoder: str, in_channels: int) -> Stats | None:
    if in_channels != 3:
        return None
    config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM)) if encoder.startswith(TIMM) else None
    return (tuple(config.mean), tuple(config.std)) if config is not None else IMAGENET
