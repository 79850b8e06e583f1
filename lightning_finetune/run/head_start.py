"""A new head is solved over the features of the pretrained layers before the first step."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_finetune.engine.linear_probe import STRENGTH, solve_head
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.run.range_test_loop import lends_batches, one_pass, undisturbed
from lightning_finetune.run.trainer import gather

MOST = 20_000
"""Images that a head is solved on; more change it little and would take memory, 5 KB each with 1,280 features."""


class HasLinearHead(Protocol):
    """A LightningModule whose head is one linear layer over features; any module may follow it."""

    criterion: nn.Module

    @property
    def new_head(self) -> nn.Linear | None:
        """The linear layer, as long as its weights are those it was made with; else None."""

    def head_inputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """What the linear layer is given for a batch ``[B, C]``, and the targets."""


@dataclass(frozen=True)
class Solved:
    """How a head was solved.

    Attributes:
        images: On how many training images.
        seconds: How long it took.
    """

    images: int
    seconds: float


def with_linear_head(module: object) -> HasLinearHead | None:
    """``module`` if it has all of it, else None.

    ``isinstance`` would look at the class alone from Python 3.12 on, where a module has no ``criterion``.
    """
    has_all = all(hasattr(module, name) for name in ("criterion", "new_head", "head_inputs"))
    return cast(HasLinearHead, module) if has_all else None


def new_head(module: pl.LightningModule) -> nn.Linear | None:
    """The head of ``module`` that can be solved; None where it has none, or none that is new."""
    owner = with_linear_head(module)
    return None if owner is None else owner.new_head


def solve_new_head(trainer: pl.Trainer, module: pl.LightningModule) -> Solved | None:
    """Give a new linear head the weights that minimise the module's own loss over its features.

    One pass over the training images, augmented as in the first epoch, with all layers as in evaluation. Each process
    takes its share, and the first one's solution holds for all.

    Returns:
        None if the module has no such head, or its data cannot be read without disturbing the run.
    """
    owner, head = with_linear_head(module), new_head(module)
    if owner is None or head is None or not lends_batches(trainer):
        return None
    begin = time.monotonic()
    with undisturbed(trainer, module, trainer.optimizers[0]), closing(_features(trainer, module)) as parts:
        pairs = list(parts)
    features, targets = (gather(trainer, torch.cat(part)) for part in zip(*pairs, strict=True))
    strength = getattr(module, "head_strength", STRENGTH)
    weight, bias = solve_head(features, targets, owner.criterion, head.out_features, strength)
    weight, bias = trainer.strategy.broadcast((weight, bias))
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
    return Solved(len(features), time.monotonic() - begin)


def _features(trainer: pl.Trainer, module: Any) -> Generator[tuple[Tensor, Tensor]]:
    """What the head gets for each training image of this process, with its targets."""
    seen, context = 0, trainer.precision_plugin.forward_context()
    with evaluating(module), context, closing(one_pass(trainer, module)) as batches:
        for batch in batches:
            features, targets = module.head_inputs(batch)
            yield features.float(), targets
            seen += len(features)
            if seen >= MOST // trainer.world_size:
                return
