"""Which layers normalise, scale or embed: those that go with others."""

from __future__ import annotations

from torch import nn

_NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalises: one of torch's norm layers, or any layer that keeps a running mean."""
    buffers = {name for name, _ in module.named_buffers(recurse=False)}
    return isinstance(module, _NORM_TYPES) or "running_mean" in buffers or _is_custom_norm(module)


def scales_only(module: nn.Module) -> bool:
    """Whether ``module`` holds vectors alone, as a norm, a PReLU or a scale does: it goes with the layer before it."""
    own = list(module.parameters())
    return is_norm(module) or (bool(own) and all(param.ndim <= 1 for param in own))


def is_leaf(module: nn.Module) -> bool:
    """Whether ``module`` has no layers within."""
    return not any(True for _ in module.children())


def is_table(module: nn.Module) -> bool:
    """Whether ``module`` holds embeddings alone, beside what scales them."""
    holders = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    tables = [part for part in holders if isinstance(part, nn.Embedding)]
    return bool(tables) and all(part in tables or scales_only(part) for part in holders)


def _is_custom_norm(module: nn.Module) -> bool:
    """Norm layers of other packages derive from none of torch's, but are leaves with vectors and say what they are."""
    own = list(module.parameters(recurse=False))
    return is_leaf(module) and bool(own) and all(p.ndim <= 1 for p in own) and "norm" in type(module).__name__.lower()
