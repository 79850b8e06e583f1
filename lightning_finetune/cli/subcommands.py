"""What the command can do beside Lightning's own subcommands."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.after.loading import load
from lightning_finetune.callbacks import FineTune, LogPredictions, PlotRun, RunReport
from lightning_finetune.cli.machine import claim
from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import ChosenRate
from lightning_finetune.engine.rates import UNFROZEN_LR
from lightning_finetune.errors import CheckpointError, FinetuneError
from lightning_finetune.run.artifacts import run_dir, shown
from lightning_finetune.run.find import FindOnly
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.trainer import callbacks
from lightning_finetune.show import terminal
from lightning_finetune.show.shown_plan import bands_of

if TYPE_CHECKING:
    from lightning_finetune.after.interpretation import Interpretation  # it loads pandas and matplotlib

TOP = 10
"""Rows of a printed table; the files hold all."""


class CommandTrainer(Trainer):
    """Lightning's Trainer with the further subcommands of ``lightning-finetune``."""

    def lr_find(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        unfrozen: bool = False,
        ckpt: str | None = None,
    ) -> ChosenRate:
        """Test a range of learning rates without training; prints the suggestions, and saves the curve.

        Args:
            model: The module.
            datamodule: Its data.
            unfrozen: Test with all layers training, as after an unfreezing; else with the head alone.
            ckpt: Checkpoint whose weights to begin with.

        Raises:
            CheckpointError: ``ckpt`` cannot be read, or is of another model.
        """
        if ckpt is not None:
            load_weights(model, ckpt)
        fine_tune = self._fine_tune()
        later = [phase for phase in fine_tune.given if phase.train != "head"]
        high = next((phase.rates.high(unfrozen=True) for phase in later if phase.rates), UNFROZEN_LR)
        find = FindOnly(unfrozen, high, fine_tune.rule(later[0]) if later else None)
        find.treat_module_like(fine_tune)
        self._fit_only(find, 1, model, datamodule)
        if find.chosen is None:
            raise CheckpointError("The range test did not run: the data gave no training batch.")
        return find.chosen

    def plan(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> Plan:
        """Print the schedule of the run step by step, and save its picture; trains nothing.

        Args:
            model: The module.
            datamodule: Its data.

        Raises:
            PhaseError: The phases cannot be followed.
        """
        fine_tune = self._fine_tune()
        show = PlanOnly(fine_tune.phases_for(model))
        show.treat_module_like(fine_tune)
        self._fit_only(show, fine_tune.epochs, model, datamodule)
        return show.plan_of_run

    def show_batch(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        count: int = 9,
        split: Literal["train", "valid", "test"] = "train",
        epoch: int = 0,
    ) -> Path:
        """Save a picture of images as the model sees them; trains nothing.

        Args:
            model: Not used.
            datamodule: An ImageData.
            count: How many images.
            split: Which of them; only training images are augmented.
            epoch: Whose order and augmentation.

        Raises:
            FinetuneError: The data module is not of this package.
        """
        if not isinstance(datamodule, ImageDataModule):
            raise FinetuneError(f"show-batch needs an ImageData, got {type(datamodule).__name__}.")
        from lightning_finetune.show.figures.saving import save  # only now, as it loads matplotlib

        path = run_dir(self) / "batch.png"
        save(datamodule.show_batch(count, split, epoch), path, 80)
        rank_zero_info(f"The images are in {shown(path)}")
        return path

    def interpret(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        tile: int | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Say where a trained model is wrong: tables and figures of the validation images; trains nothing.

        Args:
            model: Not used: the checkpoint says which.
            datamodule: An ImageData with the classes of the model.
            ckpt_path: Checkpoint of a task of this package.
            out: Folder to write to; by default within the run's. One that holds such tables already is refused.
            tile: Side in pixels of the pieces in which larger images are seen; of masks alone.
            overwrite: Write over what is there.

        Raises:
            FinetuneError: No checkpoint of a task, or data that does not fit it.
        """
        if ckpt_path is None:
            raise FinetuneError("interpret needs a trained model. Give --ckpt_path …/best.ckpt")
        if not isinstance(datamodule, ImageDataModule):
            raise FinetuneError(f"interpret needs an ImageData, got {type(datamodule).__name__}.")
        from lightning_finetune.after.interpretation import interpret  # only now, as it loads pandas and matplotlib

        folder = run_dir(self) / "interpretation" if out is None else Path(out)
        if self.is_global_zero:
            claim(folder, ["losses.csv", "top_losses.png"], overwrite)
        self.callbacks: list[Callback] = []  # all are for training
        interpretation = interpret(load(ckpt_path), datamodule, tile=tile, trainer=self)
        if self.is_global_zero:
            self._show(interpretation, folder)
        return folder

    def _show(self, interpretation: Interpretation, folder: Path) -> None:
        """Write all there is, and print the worst."""
        interpretation.save(folder)
        tables = interpretation.tables()
        if "report" in tables:
            terminal.show_table("Worst classes", interpretation.worst(TOP))
        if "most_confused" in tables:
            terminal.show_table("Most confused", tables["most_confused"].head(TOP))
        seen = " x ".join(map(str, interpretation.size))
        rank_zero_info(f"Evaluated at {seen} pixels. Tables and figures are in {shown(folder)}")

    def _fine_tune(self) -> FineTune:
        return next(callback for callback in callbacks(self) if isinstance(callback, FineTune))

    def _fit_only(
        self, callback: Callback, epochs: int, model: LightningModule, datamodule: LightningDataModule | None
    ) -> None:
        """A fit in which ``callback`` takes the place of all that trains, validates or saves."""
        dropped = (FineTune, LogPredictions, PlotRun, RunReport, Checkpoint)
        kept = [one for one in callbacks(self) if not isinstance(one, dropped)]
        self.callbacks = [*kept, callback]
        self.fit_loop.max_epochs = epochs
        self.limit_val_batches = 0
        self.num_sanity_val_steps = 0
        self.fit(model, datamodule=datamodule)


class PlanOnly(PhasedCallback):
    """Resolve the phases of a run with its model and data, show them, and end the run without a step.

    Writes ``plan.png`` into the run's directory: rates and momentum of every step.

    Args:
        phases: The phases; where a rate is left to the range test, the lessons' rate is shown.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        super().__init__()
        self.given = list(phases)

    @override
    def phases(self, trainer: Trainer) -> list[Phase]:
        return self.given

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = True
        if trainer.is_global_zero:
            from lightning_finetune.show.figures.saving import save
            from lightning_finetune.show.figures.whole_run import draw_plan  # only now, as it loads matplotlib

            plan, names = self.plan_of_run, self.grouping.names
            terminal.show_plan(plan, names)
            path = run_dir(trainer) / "plan.png"
            save(draw_plan(plan, names, bands_of(plan)), path, 110)
            rank_zero_info(f"Its rates step by step are in {shown(path)}")


def load_weights(model: LightningModule, path: str | Path) -> None:
    """Give ``model`` the weights of a checkpoint.

    Raises:
        CheckpointError: The file cannot be read, or its weights are those of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"Expected `ckpt` to be a checkpoint of this {type(model).__name__}, got {str(path)!r}: "
            f"{type(error).__name__}: {reason}"
        ) from error
