"""What ``recipes.py`` runs with a plain LightningModule: Lightning's callback, and rules as they are documented.

Network, channels-last images, kept memory, fused kernels, loaders and augmentation are this package's here too, so that
only the recipe differs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from recipes_sets import VOID, Task, image_errors  # beside this file
from recipes_ways import Outcome, Train, error_of, judge, make_data, make_module  # likewise
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from training import fit

from lightning_finetune.engine.allocator import keep_freed
from lightning_finetune.engine.layer_groups import layer_groups

Configure = Callable[["Plain"], Any]
"""The optimizers of a module, as ``configure_optimizers`` gives them."""


class Plain(pl.LightningModule):
    """A LightningModule as anybody would write it.

    Args:
        task: What it trains on.
        network: Of pixels to logits, with ``backbone`` and ``head`` if it classifies.
        normalization: Statistics of the images that its weights were trained on.
        configure: Makes its optimizers.
    """

    def __init__(self, task: Task, network: nn.Module, normalization: Any, configure: Configure) -> None:
        super().__init__()
        self.kind, self.network, self.normalization = task.source.kind, network, normalization
        self._configure = configure

    @property
    def backbone(self) -> nn.Module:
        """What ``BackboneFinetuning`` freezes first."""
        backbone: nn.Module = self.network.backbone  # type: ignore[assignment]  # of a classifier
        return backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(pixels)
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of one batch."""
        if self.kind == "multi":
            return binary_cross_entropy_with_logits(logits, targets.float())
        return cross_entropy(logits, targets, ignore_index=VOID if self.kind == "masks" else -100)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        return self.loss(self(batch["image"]), batch["mask" if self.kind == "masks" else "label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the error."""
        logits, targets = self(batch["image"]), batch["mask" if self.kind == "masks" else "label"]
        error = torch.as_tensor(image_errors(self.kind, logits, targets).mean())
        self.log("val_loss", self.loss(logits, targets), batch_size=len(logits))  # what some checkpoints look at
        self.log("val_error_rate", error, batch_size=len(logits))

    def configure_optimizers(self) -> Any:
        """What the way says."""
        return self._configure(self)


def plainly(
    task: Task, epochs: int, seed: int, configure: Configure, callbacks: list[Any] | None = None, **options: Any
) -> Outcome:
    """Train a plain module from the same weights."""
    pl.seed_everything(seed, verbose=False)
    keep_freed()
    data = make_data(task, seed)
    made = make_module(task, data)
    module = Plain(task, made.model, made.normalization, configure)
    return judge(module, data, fit(module, data, callbacks or [], epochs, error_of, **options))


def adamw(rate: float) -> Configure:
    """AdamW over what is to be trained, at one rate."""

    def configure(module: Plain) -> Any:
        trained = [param for param in module.parameters() if param.requires_grad]
        return torch.optim.AdamW(trained, lr=rate, fused=True)

    return configure


def stepwise(optimizer: Any, schedule: Any) -> Any:
    """What Lightning takes for a schedule of steps."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def all_layers(rate: float) -> Train:
    """All layers from the first step, one rate, AdamW with one cycle: what most people write."""

    def configure(module: Plain) -> Any:
        optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-2, fused=True)
        steps = int(module.trainer.estimated_stepping_batches)
        return stepwise(optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps))

    return lambda task, epochs, seed: plainly(task, epochs, seed, configure)


def backbone_finetuning(rate: float) -> Train:
    """Lightning's callback: the head for half of the epochs, then the backbone too.

    Its rate grows by half each epoch, from a tenth of the head's on, as the example in its documentation has it.
    """
    from lightning.pytorch.callbacks import BackboneFinetuning

    def train(task: Task, epochs: int, seed: int) -> Outcome:
        callback = BackboneFinetuning(max(1, epochs // 2), lambda epoch: 1.5, backbone_initial_ratio_lr=0.1)
        return plainly(task, epochs, seed, adamw(rate), [callback])

    return train


def scheduler(rate: float) -> Train:
    """finetuning-scheduler with an explicit schedule: the head for half of the epochs, then all at 0.3 of the rate."""

    def train(task: Task, epochs: int, seed: int) -> Outcome:
        import yaml
        from finetuning_scheduler import FinetuningScheduler

        phases = {
            0: {"params": ["network.head.*"], "max_transition_epoch": max(1, epochs // 2)},
            1: {"params": ["network.backbone.*"], "max_transition_epoch": epochs, "lr": 0.3 * rate},
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "schedule.yaml")
            file.write_text(yaml.safe_dump(phases))
            callback = FinetuningScheduler(ft_schedule=str(file), epoch_transitions_only=True, restore_best=False)
            return plainly(task, epochs, seed, adamw(rate), [callback], enable_checkpointing=True)

    return train


def autogluon(task: Task, epochs: int, seed: int) -> Outcome:
    """AutoGluon's MultiModalPredictor (https://auto.gluon.ai, "Customize AutoMM").

    AdamW at 1e-4, 0.9 of it for each layer group further down, weight decay 1e-3, a tenth of the steps to warm up, then
    a cosine, gradients clipped to 1. Without its mean of the three best checkpoints: it looks at the images that judge.
    """

    def configure(module: Plain) -> Any:
        groups = layer_groups(module.network)
        rates = [1e-4 * 0.9 ** (len(groups) - 1 - place) for place in range(len(groups))]
        params = [{"params": list(group.params), "lr": lr} for group, lr in zip(groups, rates, strict=True)]
        optimizer = torch.optim.AdamW(params, weight_decay=1e-3, fused=True)
        steps = int(module.trainer.estimated_stepping_batches)
        warm = max(1, round(0.1 * steps))

        def share(step: int) -> float:
            past = (step - warm) / max(1, steps - warm)
            return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * past))

        return stepwise(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share))

    return plainly(task, epochs, seed, configure, gradient_clip_val=1.0)


def bit(task: Task, epochs: int, seed: int) -> Outcome:
    """BiT-HyperRule (https://arxiv.org/abs/1912.11370).

    SGD at 3e-3 with momentum 0.9, a fifth of the steps to warm up, then a tenth of the rate after each further fifth
    but the last, the head from zeros, no MixUp for small sets. Steps, size and batch are the run's, not its 500 of 512.
    """

    def configure(module: Plain) -> Any:
        head = list(module.network.children())[-1]
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.weight)
        optimizer = torch.optim.SGD(module.parameters(), lr=3e-3, momentum=0.9)
        steps = int(module.trainer.estimated_stepping_batches)

        def share(step: int) -> float:
            fifth = 5 * step / steps
            return max(fifth, 5 / steps) if fifth < 1 else 0.1 ** max(0, min(3, int(fifth) - 1))

        return stepwise(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share))

    return plainly(task, epochs, seed, configure)


def plain_ways() -> dict[str, Train]:
    """By name; those that have a rate with each of the same three."""
    ways: dict[str, Train] = {"autogluon": autogluon, "bit": bit}
    for rate in (3e-4, 1e-3, 3e-3):
        ways[f"plain-{rate:.0e}"] = all_layers(rate)
        ways[f"backbone-{rate:.0e}"] = backbone_finetuning(rate)
        ways[f"scheduler-{rate:.0e}"] = scheduler(rate)
    return ways
