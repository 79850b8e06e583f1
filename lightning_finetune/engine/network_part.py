"""A part of a network, and what is known of its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.nn import Parameter

Role = Literal["block", "joins", "embedding", "stays", "loose", "decoder", "head", "other"]
"""``joins`` the part before it; ``stays`` in the body, though it comes after blocks; ``loose`` hangs on no child."""


@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that act together.

    Attributes:
        name: Of the module that holds them, within the network.
        params: In the module's order.
        role: What its name and its place say of it.
        module: Of that name; None where there is nothing to be found within.
    """

    name: str
    params: tuple[Parameter, ...]
    role: Role = "other"
    module: nn.Module | None = field(default=None, repr=False)


def join(name: str, own: str) -> str:
    """The name of a child of ``name``, which may be empty."""
    return f"{name}.{own}" if name else own
