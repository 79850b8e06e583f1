"""A new head is solved over the features of the pretrained layers before the first step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_finetune.engine.linear_probe import STRENGTH, solve_head
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.run.range_test_loop import lends_batches, one_pass, undisturbed
from lightning_finetune.run.trainer import gather

MOST = 20_000
"""Images that a head is solved on; more change it little."""

MOST_NUMBERS = 2**27
"""Features of all these images together, in half a GiB; some networks have 20 levels of 2,000 channels."""


def new_head(module: Any) -> nn.Linear | None:
    """The head of ``module`` that can be solved; None where it has none, or none that is new.

    Any module may say it, by ``criterion``, ``head_inputs``, which gives what the linear layer gets for a batch
    ``[B, C]`` with the targets, and ``new_head``, which is that layer as long as it has the weights it was made with.
    """
    head: nn.Linear | None = getattr(module, "new_head", None)
    return head if hasattr(module, "criterion") and hasattr(module, "head_inputs") else None


def solve_new_head(trainer: pl.Trainer, module: pl.LightningModule) -> int | None:
    """Give a new linear head the weights that minimise the module's own loss over its features.

    One pass over the training images, augmented as in the first epoch, with all layers as in evaluation. Each process
    takes its share, and the first one's solution holds for all.

    Returns:
        On how many images; None if the module has no such head, or its data cannot be read without disturbing the run.
    """
    head, owner = new_head(module), cast(Any, module)
    if head is None or not lends_batches(trainer):
        return None
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
    return len(features)


def _features(trainer: pl.Trainer, module: Any) -> Generator[tuple[Tensor, Tensor]]:
    """What the head gets for each training image of this process, with its targets."""
    seen, context = 0, trainer.precision_plugin.forward_context()
    with evaluating(module), context, closing(one_pass(trainer, module)) as batches:
        for batch in batches:
            features, targets = module.head_inputs(batch)
            yield features.float(), targets
            seen += len(features)
            if seen >= min(MOST, MOST_NUMBERS // features.shape[1]) // trainer.world_size:
                return
