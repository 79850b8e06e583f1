"""Regression: one or several numbers for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.errors import DataError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import Confusion
from lightning_finetune.tasks.measures.metrics import MetricsArgument
from lightning_finetune.tasks.networks.heads import HeadName
from lightning_finetune.tasks.networks.weights import Weights
from lightning_finetune.tasks.shared.arguments import choose
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.sources import named, path_of
from lightning_finetune.tasks.shared.verdicts import Verdict, of_numbers

if TYPE_CHECKING:
    import pandas as pd  # heavy, and only its name is needed

NumberLoss: TypeAlias = Literal["mse", "mae", "huber"]
_LOSSES: dict[str, type[nn.Module]] = {"mse": nn.MSELoss, "mae": nn.L1Loss, "huber": nn.HuberLoss}


@dataclass(frozen=True, repr=False)
class NumbersPrediction:
    """What a regressor says about one image.

    Attributes:
        numbers: By name, in the unit of the targets.
        source: The file, where the image came from one.
    """

    numbers: Mapping[str, float]
    source: Path | None = None

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {number:.4g}" for name, number in self.numbers.items())
        return f"NumbersPrediction{named(self.source)}: {numbers}"

    @property
    def number(self) -> float:
        """The first, of a regressor for one number the only one."""
        return next(iter(self.numbers.values()))


class Standard(nn.Module):
    """The mean and standard deviation of the targets, kept in the checkpoint.

    Args:
        count: How many numbers an image has.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))

    @property
    def is_set(self) -> bool:
        """Whether :meth:`set` was called, or a checkpoint loaded that knew."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the targets' mean and standard deviation, one number each; what does not vary keeps its unit."""
        self.mean.copy_(torch.as_tensor(mean))
        spread = torch.as_tensor(std)
        self.std.copy_(spread.where(spread > 0, 1.0))

    def to_standard(self, numbers: Tensor) -> Tensor:
        """Numbers ``[B, K]`` in their unit as the model learns them: about 0, of spread 1."""
        return (numbers - self.mean.to(numbers.device)) / self.std.to(numbers.device)

    def to_unit(self, outputs: Tensor) -> Tensor:
        """Outputs ``[B, K]`` of the model in the unit of the targets."""
        return outputs.float() * self.std.to(outputs.device) + self.mean.to(outputs.device)


class StandardLoss(nn.Module):
    """A loss of standardised targets, so that its size and the best learning rate do not depend on their unit.

    Args:
        loss: Of outputs and standardised targets ``[B, K]``.
        standard: Of the targets.
    """

    def __init__(self, loss: nn.Module, standard: Standard) -> None:
        super().__init__()
        self.loss, self.standard = loss, standard

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of outputs ``[B, K]`` for targets ``[B, K]`` in their unit."""
        loss: Tensor = self.loss(outputs.float(), self.standard.to_standard(target))
        return loss


class NumberMetric(Metric):
    """A measure of all numbers of a set, by scikit-learn's definition, meaned over the numbers of an image.

    It is made at once and in float64: sums in float32 forget the spread of numbers that are large beside it.

    Args:
        measure: ``"mae"``, ``"rmse"`` or ``"r2"``.
        each: Give one value for each number of an image.
        kwargs: As for any torchmetrics metric.
    """

    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, measure: str, each: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure, self.each = measure, each
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add a batch: predictions and targets ``[B, K]``."""
        self.predictions.append(predictions.detach())
        self.targets.append(target)

    def compute(self) -> Tensor:
        """The measure of all images so far, or measures ``[K]``."""
        predictions, targets = dim_zero_cat(self.predictions), dim_zero_cat(self.targets)
        values = measures(predictions.double().cpu(), targets.double().cpu())[self.measure].float()
        return (values if self.each else values.mean()).to(targets.device)


def measures(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Mean absolute error, root of the mean squared error, and coefficient of determination ``[K]`` each.

    Args:
        predictions: float64 ``[N, K]``.
        targets: float64 ``[N, K]``.
    """
    errors, spread = predictions - targets, ((targets - targets.mean(0)) ** 2).sum(0)
    rest = (errors**2).sum(0)
    r2 = torch.where(spread > 0, 1 - rest / spread, (rest == 0).double())
    r2 = r2 if len(targets) > 1 else r2.fill_(torch.nan)
    return {"mae": errors.abs().mean(0), "rmse": (errors**2).mean(0).sqrt(), "r2": r2}


class ImageRegressor(BaseTask):
    """Fine-tunes a pretrained backbone to tell numbers from images: an age, an angle, a count.

    Targets are standardised inside, by the mean and standard deviation of the training images that the data tells;
    predictions, metrics and files are in the unit of the targets.

    Args:
        model: As of :class:`~lightning_finetune.ImageClassifier`.
        num_outputs: How many numbers an image has; the command line takes it from the data.
        weights: As of :class:`~lightning_finetune.ImageClassifier`.
        in_channels: Channels of an image.
        head: ``"multi_level"``, one linear layer over the features of all blocks (of a ``model`` that is a module, over
            what it gives); ``"linear"``, one over the last features; or ``"concat_pool"``, the head of the lessons.
        dropout: Probability before the last layer; 0, as what is dropped changes the size of what is left.
        loss: ``"mse"`` for squared errors, ``"mae"`` for absolute ones, ``"huber"`` for what is squared up to one
            standard deviation and absolute beyond (Huber 1964); or any module of ``(outputs, targets)``, both
            standardised, ``[B, num_outputs]``.
        lr: Learning rate; a schedule's callback sets its own.
        weight_decay: Decoupled, of all parameters but norms and biases.
        optimizer: Makes an optimizer from parameter groups.
        metrics: Replace MAE, RMSE and R²: one or several of torchmetrics, of predictions and targets
            ``[B, num_outputs]``.

    Raises:
        FinetuneError: Arguments that contradict each other or are out of range.
        CheckpointError: Weights that do not fit the model.
    """

    kind = "number"
    output = "numbers: float32 [B, numbers]"
    judged_by = "r2"
    counted = ("num_outputs", "numbers of an image")
    head_strength = 2.5e-3  # ridge regression with alpha 200 (docs/tasks.md)

    def __init__(
        self,
        model: str | nn.Module = "tf_efficientnet_lite0",
        *,
        num_outputs: int | None = None,
        weights: Weights = True,
        in_channels: int = 3,
        head: HeadName = "multi_level",
        dropout: float = 0.0,
        loss: NumberLoss | nn.Module = "mse",
        lr: float = DEFAULT_LR,
        weight_decay: float = 1e-2,
        optimizer: OptimizerCallable = fastai_adam,
        metrics: MetricsArgument | None = None,
    ) -> None:
        super().__init__()
        self.build(locals())

    def configure_losses(self) -> nn.Module:
        """The loss that was named or given, of standardised targets."""
        self.standard = Standard(self.num_classes)
        loss: NumberLoss | nn.Module = self.arguments["loss"]
        if not isinstance(loss, nn.Module):
            loss = _LOSSES[choose("loss", loss, _LOSSES)]()
        return StandardLoss(loss, self.standard)

    def configure_metrics(self) -> dict[str, Metric]:
        """MAE, RMSE and R², meaned over the numbers of an image, and of each."""
        names = ("mae", "rmse", "r2")
        each = {f"each_{name}": NumberMetric(name, each=True) for name in names if self.num_classes > 1}
        return {**{name: NumberMetric(name) for name in names}, **each}

    def setup(self, stage: str) -> None:
        """Check that the data module fits, and take the spread of its targets, unless a training before did."""
        super().setup(stage)
        if stage != "fit" or self.standard.is_set:
            return
        statistics = getattr(getattr(self.trainer, "datamodule", None), "target_statistics", None)
        if statistics is None:
            rank_zero_warn(
                "ImageRegressor learns numbers in their own unit, because the data has no `target_statistics()`. "
                "Unless they are about 0 and of spread 1, call task.standard.set(mean, std) before training."
            )
        else:
            self.standard.set(*statistics())

    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` for targets that are not one finite number for each output."""
        if target.numel() != len(target) * self.num_classes:
            raise DataError(
                f"Expected targets [B, {self.num_classes}] (num_outputs={self.num_classes}), got {list(target.shape)}."
            )
        if not bool(target.isfinite().all()):
            raise DataError("Expected targets that are finite numbers, got NaN or infinity.")

    def prepare_target(self, target: Tensor) -> Tensor:
        """Numbers ``[B, num_outputs]`` as float32, in their unit."""
        return target.float().reshape(len(target), -1)

    def predictions(self, logits: Tensor) -> Tensor:
        """Outputs ``[B, num_outputs]`` in the unit of the targets."""
        return self.standard.to_unit(logits)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of the targets."""
        return self.standard.std

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """Predicted beside true numbers."""
        return of_numbers(predictions, target, self.classes)

    def report(self, items: pd.DataFrame, confusion: Confusion | None) -> dict[str, Any]:
        """MAE, RMSE and R² of each number."""
        ends = [f"_{name}" for name in self.classes] if self.num_classes > 1 else [""]
        parts = (torch.tensor(items[[f"{what}{end}" for end in ends]].to_numpy()) for what in ("prediction", "truth"))
        return {"number": self.classes, **{name: values.tolist() for name, values in measures(*parts).items()}}

    def describe(self, predictions: Tensor, source: ImageSource) -> NumbersPrediction:
        """The numbers ``[num_outputs]`` of one image by name."""
        return NumbersPrediction(dict(zip(self.classes, predictions.tolist(), strict=True)), path_of(source))

    def row(self, prediction: NumbersPrediction) -> dict[str, object]:
        """One number as the prediction, several by their names."""
        return dict(prediction.numbers) if self.num_classes > 1 else {"prediction": prediction.number}
