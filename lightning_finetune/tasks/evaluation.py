"""Validation and test: what every task does alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_finetune.tasks.measures.metrics import Measures
from lightning_finetune.tasks.measures.set_loss import SetLoss, set_loss_of
from lightning_finetune.tasks.shared.batch import images_of, target_of


class Evaluates(LightningModule, ABC):
    """Adds validation and test to a task.

    Attributes:
        target_key: Where a batch holds the targets.
        criterion: Logits and targets to a loss.
        classes: Names of classes or labels.
        val_measures: Loss and metrics of the validation set.
        test_measures: Loss and metrics of the test set.
    """

    target_key: ClassVar[str] = "label"
    criterion: nn.Module
    classes: list[str]
    val_measures: Measures
    test_measures: Measures

    @property
    def set_loss(self) -> SetLoss:
        """How the loss is meaned over a set; override it for a criterion whose batches weigh something else."""
        return set_loss_of(self.criterion)

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities from logits."""

    @abstractmethod
    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` if ``target`` cannot belong to this model."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch to loss and metrics; its ``logits``, ``probabilities`` and ``target``, for callbacks."""
        return self._measure(self.val_measures, batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to loss and metrics."""
        self._measure(self.test_measures, batch)

    def on_validation_epoch_start(self) -> None:
        """Start loss and metrics anew."""
        self.val_measures.reset()

    def on_test_epoch_start(self) -> None:
        """Start loss and metrics anew."""
        self.test_measures.reset()

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics of the whole set."""
        self._log_measures(self.val_measures)

    def on_test_epoch_end(self) -> None:
        """Log loss and metrics of the whole set."""
        self._log_measures(self.test_measures)

    def _measure(self, measures: Measures, batch: Any) -> dict[str, Tensor]:
        """Add a batch to ``measures``; what the model says of it, and its targets."""
        target = target_of(batch, self.target_key)
        self.check_target(target)
        logits = self(images_of(batch))
        probabilities = self.probabilities(logits)
        measures.update(self.set_loss.sums(logits, target), probabilities, target.long())
        return {"logits": logits, "probabilities": probabilities, "target": target}

    def _log_measures(self, measures: Measures) -> None:
        for place, (name, value) in enumerate(measures.compute(self.classes, self.set_loss.mean).items()):
            self.log(name, value, prog_bar=place < 2, sync_dist=True)  # equal on all ranks; sync_dist asks for no more
