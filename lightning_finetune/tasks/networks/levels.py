"""A backbone's features at all of its levels: what its blocks give, pooled, beside the features that it ends with.

A linear head over these makes fewer errors than over the last features alone, most of all where the new images are
unlike those of the pretraining (Head2Toe; Evci et al. 2022, https://arxiv.org/abs/2201.03529).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.networks.backbones import first_output

_SEEN: dict[int, dict[str, Tensor]] = {}  # by thread, while it runs a forward pass; torch.compile takes no ContextVar

_Dims = tuple[int, ...]


def watch_levels(backbone: nn.Module, in_channels: int) -> dict[str, int]:
    """Have the layer groups of ``backbone`` show what they give to :func:`level_features`.

    Those are all but the first, which is hardly more than the image, and those that give neither a map nor tokens. The
    last is left out where its mean is what the backbone gives.

    Args:
        backbone: Its forward pass calls the module of a layer group once.
        in_channels: Of its images.

    Returns:
        Channels of each, by the name of its module, from the input on.
    """
    names = [_module_named(backbone, group.name) for group in layer_groups(backbone, only=backbone.parameters())[1:]]
    found = _outputs(backbone, [name for name in names if name is not None], in_channels)
    features, channels = pool(found.pop("")), {}
    for name, output in found.items():
        dims = _position_dims(output)
        if dims and not _are_equal(level := output.mean(dims), features):
            backbone.get_submodule(name).register_forward_hook(partial(_show, name, dims))
            channels[name] = level.shape[1]
    return channels


def level_features(backbone: nn.Module, names: Sequence[str], images: Tensor) -> Tensor:
    """The features of ``backbone``, then those of its levels ``names``: ``[B, C]``, with a mean square of 1.

    Each level has the same length, so that none outweighs the others, whatever its channels and their scale.

    Raises:
        FinetuneError: The forward pass goes around one of the modules.
    """
    seen: dict[str, Tensor] = {}
    _SEEN[_thread()] = seen
    try:
        last = backbone(images)
    finally:
        del _SEEN[_thread()]
    if missing := [name for name in names if name not in seen]:
        raise FinetuneError(
            f"Expected the backbone to call its module {missing[0]!r}, whose output the head sees. It did not, as with "
            "timm's set_grad_checkpointing(). Give the task head='linear'."
        )
    levels = [_of_length_1(level) for level in (pool(last), *(seen[name] for name in names))]
    features = torch.cat(levels, dim=1)
    return (features * math.sqrt(features.shape[1] / len(levels))).to(last.dtype)


def pool(features: Tensor) -> Tensor:
    """Mean over the positions of a map ``[B, C, h, w]``; pooled features ``[B, C]`` as they are."""
    return features.mean((2, 3)) if features.ndim == 4 else features


def _of_length_1(level: Tensor) -> Tensor:
    """In float32 at least: half precision has no number small enough to guard a level of zeros."""
    return normalize(level.to(torch.promote_types(level.dtype, torch.float32)), dim=1)


def _show(name: str, dims: _Dims, module: nn.Module, args: Any, output: Tensor) -> None:
    seen = _SEEN.get(_thread())
    if seen is not None:
        seen[name] = output.mean(dims)


def _thread() -> int:
    return 0 if torch.compiler.is_compiling() else get_ident()


def _module_named(backbone: nn.Module, group: str) -> str | None:
    """The module of a layer group, whose name leaves out what all groups have in front."""
    names = [name for name, _ in backbone.named_modules() if f".{name}".endswith(f".{group}")]
    return min(names, key=lambda name: name.count("."), default=None)


def _outputs(backbone: nn.Module, names: Sequence[str], in_channels: int) -> dict[str, Any]:
    """What the modules ``names`` give for an image, in the order of their calls; under ``""`` the last features."""
    outputs: dict[str, Any] = {}
    hooks = [
        backbone.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: outputs.__setitem__(name, output)
        )
        for name in ["", *names]
    ]
    first_output(backbone, in_channels)
    for hook in hooks:
        hook.remove()
    return outputs


def _position_dims(output: Any) -> _Dims:
    """Dimensions of the positions in a square map, channels first or last, or in tokens; none for anything else."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return ()
    if output.ndim == 3:
        return (1,)
    return (2, 3) if output.shape[2] == output.shape[3] else (1, 2) if output.shape[1] == output.shape[2] else ()


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-5)
