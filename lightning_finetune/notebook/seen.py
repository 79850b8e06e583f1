"""What a run leaves for its cell, also if it ran in processes that the Trainer started (``ddp_notebook``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.callbacks.epoch_table import EpochTable
from lightning_finetune.engine.processes import bring_back
from lightning_finetune.run.phase_ends import plan_of
from lightning_finetune.run.recording import RecordingCallback
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.shown_plan import bands_of

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
