"""What a run leaves for its cell, also if it ran in processes that the Trainer started (``ddp_notebook``)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.callbacks.epoch_table import EpochTable
from lightning_finetune.run.phase_ends import plan_of
from lightning_finetune.run.recording import RecordingCallback
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.shown_plan import bands_of

_KEY = "lightning_finetune.notebook"


class Seen(Callback):
    """The table of epochs, the history and the phases of a run.

    From processes that it started Lightning brings back the state dict of the module and nothing else. A state dict has
    room beside the weights, the metadata that torch keeps for each module, so that this travels with it.
    """

    def __init__(self) -> None:
        self.table, self.record = EpochTable(), RecordingCallback()
        self.bands: list[Band] = []

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bands = bands_of(plan_of(trainer))

    @contextmanager
    def brought_back(self, module: pl.LightningModule) -> Iterator[None]:
        """While the block runs, what a started process has seen comes back with the weights of ``module``."""
        hooked: Any = module  # torch leaves the two untyped
        put = hooked.register_state_dict_post_hook(partial(_put, self))
        take = hooked.register_load_state_dict_pre_hook(partial(_take, self))
        try:
            yield
        finally:
            put.remove()
            take.remove()

    def told(self) -> dict[str, Any]:
        """All of it in plain values."""
        bands = [[band.start, band.end, band.label] for band in self.bands]
        return {"table": self.table.state_dict(), "history": self.record.state_dict(), "bands": bands}

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take what :meth:`told` gave."""
        self.table.load_state_dict(told["table"])
        self.record.load_state_dict(told["history"])
        self.bands = [Band(*band) for band in told["bands"]]


def _put(seen: Seen, module: Any, state_dict: Any, prefix: str, metadata: dict[str, Any]) -> None:
    if multiprocessing.parent_process() is not None:
        metadata[_KEY] = seen.told()


def _take(seen: Seen, module: Any, state_dict: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
    if _KEY in metadata:
        seen.hear(metadata[_KEY])
