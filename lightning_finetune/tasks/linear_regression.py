"""The lessons' first model: a line, found by gradient descent."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import FinetuneError


class LinearRegression(pl.LightningModule):
    """Finds ``a`` in ``y = x @ a`` by stochastic gradient descent on the mean squared error.

    The primer of the lessons (``examples/sgd_primer.py``): small enough to do by hand first. A batch is ``(x, y)`` with
    ``x`` float ``[B, num_features]``, whose last column of ones makes ``a[-1]`` the intercept, and ``y`` float ``[B]``.

    Args:
        num_features: Columns of ``x``.
        lr: Learning rate of plain SGD with momentum 0; a schedule's callback sets its own.

    Attributes:
        a: The coefficients ``[num_features]``, which begin at 1 as in the lessons.

    Raises:
        FinetuneError: Fewer than one feature.
    """

    def __init__(self, num_features: int = 2, lr: float = 0.1) -> None:
        check_types(LinearRegression.__init__, locals())
        super().__init__()
        if num_features < 1:
            raise FinetuneError(f"Expected `num_features` to be at least 1, got {num_features}.")
        self.save_hyperparameters()
        self.a = nn.Parameter(torch.ones(num_features))
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        """``x @ a``: ``[B]``."""
        return x @ self.a

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of a batch."""
        return self._loss("train_loss", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean squared error of a batch."""
        self._loss("val_loss", batch)

    def configure_optimizers(self) -> torch.optim.SGD:
        """Plain SGD."""
        return torch.optim.SGD([self.a], self.lr)

    def _loss(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log(name, loss, prog_bar=True, batch_size=len(y))
        return loss
