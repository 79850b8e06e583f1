"""What the calls for notebooks give back, as a cell shows it; also of a run in other processes (``ddp_notebook``)."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.callbacks.epoch_table import EpochTable
from lightning_finetune.engine.processes import bring_back
from lightning_finetune.engine.range_test import Curve
from lightning_finetune.engine.rates import LR, ends
from lightning_finetune.run.phase_ends import plan_of
from lightning_finetune.run.recording import RecordingCallback
from lightning_finetune.show.epoch_lines import epoch_lines
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.histories import ShownHistory
from lightning_finetune.show.shown_plan import bands_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed


@dataclass(frozen=True, repr=False)
class Run:
    """A run that has ended.

    Attributes:
        trainer: That ran it, with the module as ``trainer.lightning_module``.
        history: Rates, losses and metrics by optimizer step.
        table: A row per epoch.
        bands: Its phases, in optimizer steps.
    """

    trainer: pl.Trainer
    history: ShownHistory
    table: EpochTable
    bands: Sequence[Band] = ()

    def plot(self) -> Figure:
        """Learning rates, losses and metrics over the steps of the run, its phases behind them."""
        return self.history.plot(self.bands)

    def __repr__(self) -> str:
        return "\n".join(epoch_lines(self.table.rows, self.table.best))

    def _repr_html_(self) -> None:
        """Nothing: the cell has shown the table while it grew."""


@dataclass(frozen=True, repr=False)
class RangeTestResult:
    """What a learning rate range test says.

    Attributes:
        lr: The rate to take, or the rates of the input and of the head.
        reason: Why, in a sentence.
        suggestions: Rates by the name of the rule, fastai's among them.
        curve: Of the loss over the rates.
    """

    lr: LR
    reason: str
    suggestions: Mapping[str, float]
    curve: Curve

    def plot(self) -> Figure:
        """The loss over the rates, with what is taken."""
        from lightning_finetune.show.figures.whole_run import draw_curve  # only now, as it loads matplotlib

        return draw_curve(self.curve, ends(self.lr))

    def __repr__(self) -> str:
        rates = ends(self.lr)
        suggested = ", ".join(f"{name} {lr:.1e}" for name, lr in self.suggestions.items())
        return f"Take {' to '.join(f'{lr:.1e}' for lr in rates)}: {self.reason}.\nSuggestions: {suggested}"

    def _repr_html_(self) -> str:
        """The curve with the words under it."""
        picture = io.BytesIO()
        self.plot().savefig(picture, format="png", dpi=80)
        encoded = base64.b64encode(picture.getvalue()).decode()
        words = repr(self).replace("\n", "<br>")
        return f"<img src='data:image/png;base64,{encoded}' alt='learning rate range test'><p>{words}</p>"


_KEY = "lightning_finetune.notebook"


class Seen(Callback):
    """The table of epochs, the history and the phases of a run."""

    def __init__(self) -> None:
        self.table, self.record = EpochTable(), RecordingCallback()
        self.bands: list[Band] = []

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bands = bands_of(plan_of(trainer))

    @contextmanager
    def brought_back(self, module: pl.LightningModule) -> Iterator[None]:
        """While the block runs, what a started process has seen comes back with the weights of ``module``."""
        put, take = bring_back(module, _KEY, self.told, self.hear)
        with put, take:
            yield

    def told(self, module: pl.LightningModule) -> dict[str, Any]:
        """All of it in plain values."""
        bands = [[band.start, band.end, band.label] for band in self.bands]
        return {"table": self.table.state_dict(), "history": self.record.state_dict(), "bands": bands}

    def hear(self, module: pl.LightningModule, told: Mapping[str, Any]) -> None:
        """Take what :meth:`told` gave."""
        self.table.load_state_dict(told["table"])
        self.record.load_state_dict(told["history"])
        self.bands = [Band(*band) for band in told["bands"]]
