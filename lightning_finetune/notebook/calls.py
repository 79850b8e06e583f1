"""Fine-tune, find a learning rate, look at predictions: one call each, thin over Trainer and callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.callbacks.epoch_table import in_cell
from lightning_finetune.callbacks.fine_tune import FineTune
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.notebook.results import RangeTestResult, Run, Seen
from lightning_finetune.run.find import FindOnly
from lightning_finetune.run.noise import without_noise
from lightning_finetune.run.validation_images import LookingCallback
from lightning_finetune.show.figures.content import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed

_NOTHING_WRITTEN: Mapping[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
"""What a Trainer is made with if nobody says: a cell leaves no files."""

_BY_THE_PHASES: Mapping[str, Any] = {"max_epochs": -1}
"""Lets FineTune say how many epochs; Lightning warns of none."""


def fine_tune(
    model: pl.LightningModule,
    data: Any,
    epochs: int | list[Phase] | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> Run:
    """Fine-tune ``model`` on ``data`` by the recipe (``docs/recipe.md``), with a table of epochs that grows.

    This is ``Trainer(callbacks=[FineTune(epochs), EpochTable()]).fit(model, data)``, but writes no files unless
    ``trainer`` asks for them.

    Args:
        model: A task of this package, or any LightningModule that returns one optimizer.
        data: A data module; or loaders, training and validation, as a tuple.
        epochs: How many; or the phases themselves. None: those of the recipe.
        callbacks: More callbacks of the Trainer.
        **trainer: More arguments of the Trainer, such as ``logger=True`` or ``precision="bf16-mixed"``.

    Raises:
        FinetuneError: Phases, data or a module that do not fit together.

    Example::

        run = fine_tune(model, data, epochs=4)
        run.plot()
    """
    check_types(fine_tune, {"model": model, "epochs": epochs, "callbacks": callbacks})
    if any(isinstance(callback, FineTune) for callback in callbacks):
        raise FinetuneError("fine_tune makes its own FineTune. Give the phases as `epochs`, or use a Trainer.")
    seen = Seen()
    used = [FineTune(epochs), seen.table, seen.record, seen, *callbacks]
    with without_noise(), seen.brought_back(model):
        bar = {"enable_progress_bar": not in_cell()}  # the table shows the progress, and needs no widgets
        made = pl.Trainer(**{**_NOTHING_WRITTEN, **_BY_THE_PHASES, **bar, **trainer, "callbacks": used})
        made.fit(model, *(data if isinstance(data, tuple) else (data,)))
    return Run(made, seen.record.history, seen.table, seen.bands)


def lr_find(model: pl.LightningModule, data: Any, unfrozen: bool = False, **trainer: Any) -> RangeTestResult:
    """Run the learning rate range test; model and data stay as they are. A cell shows the curve.

    Args:
        model: A task of this package, or any LightningModule that returns one optimizer.
        data: A data module, or a training loader.
        unfrozen: Test with all layers training; else with the head alone.
        **trainer: More arguments of the Trainer.

    Raises:
        FinetuneError: The data gave no batch, or the callbacks do not support the module.
    """
    check_types(lr_find, {"model": model, "unfrozen": unfrozen})
    find = FindOnly(unfrozen)
    find.treat_module_like(FineTune())
    quiet = {"enable_progress_bar": False, "max_epochs": 1, "limit_val_batches": 0}
    settings = {**_NOTHING_WRITTEN, **quiet, **trainer}
    with without_noise():
        pl.Trainer(**{**settings, "callbacks": [find, *trainer.get("callbacks", ())]}).fit(model, data)
    if find.chosen is None:
        raise DataError("The range test did not run: the data gave no training batch.")
    return RangeTestResult(find.chosen.lr, find.chosen.reason, find.chosen.curve.suggestions, find.chosen.curve)


class _Looking(LookingCallback):
    """Draws a few images of a validation with what the model says of them."""

    figure: Figure | None = None

    @override
    def show(self, trainer: pl.Trainer, shown: Sequence[Shown], classes: Sequence[str]) -> None:
        from lightning_finetune.show.figures.predictions import draw_predictions  # only now, as it loads matplotlib

        self.figure = draw_predictions(shown, classes=classes)


def show_results(model: pl.LightningModule, data: Any, count: int = 9, seed: int = 42, **trainer: Any) -> Figure:
    """Validation images with their true and their predicted labels, wrong ones framed in red.

    Args:
        model: A task of this package, or a module that takes the images of a batch and gives logits.
        data: A data module, or a validation loader.
        count: How many images.
        seed: Of their choice.
        **trainer: More arguments of the Trainer.

    Raises:
        DataError: There are no validation images, or the module does not predict from images alone.
    """
    check_types(show_results, {"model": model, "count": count, "seed": seed})
    looking = _Looking(count, seed)
    settings = {**_NOTHING_WRITTEN, "enable_progress_bar": False, **trainer, "callbacks": [looking]}
    with without_noise():
        pl.Trainer(**settings).validate(model, data, verbose=False)
    if looking.figure is None:
        raise DataError("There is nothing to show: the data has no validation images.")
    return looking.figure
