"""The report of a run: one page that shows what was planned, what happened, and what came of it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.run import report_facts
from lightning_finetune.run.artifacts import run_dir, shown
from lightning_finetune.run.galleries import Galleries
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.run.recording import RecordingCallback
from lightning_finetune.run.trainer import is_dev_run
from lightning_finetune.show.report import Outcome, render
from lightning_finetune.show.report.environment import commit


class RunReport(RecordingCallback):
    """Describe a run on one page, ``report.html``, which needs no other files and no network.

    The page tells how the run ended, the diagnosis, losses and metrics, the plan beside what the optimizer, the module
    and the batches really had, range tests, a fixed sample of predictions, the validation images with the largest
    losses, and everything that you need to repeat the run. The callback writes it into the run's directory at the end
    of each phase and of the run, also of one that fails. Works with any module; the page says what is missing and why.

    Args:
        enabled: False writes nothing; for the command, where you cannot leave a callback out.
    """

    def __init__(self, enabled: bool = True) -> None:
        check_types(RunReport.__init__, locals())
        super().__init__()
        self.enabled = enabled
        self._galleries = Galleries()
        self._before = 0.0
        self._since: float | None = None
        self._origin: dict[str, str] = {}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._galleries, self._before, self._since = Galleries(), 0.0, None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.enabled:
            return
        self._since = time.monotonic()
        if trainer.is_global_zero:
            started = datetime.now().astimezone().isoformat(" ", "seconds")
            again = f", from step {trainer.global_step} of an earlier process" if trainer.global_step else ""
            self._origin = {"started": started + again, "git commit": commit(Path.cwd()) or "none found"}

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.enabled:
            self._galleries.begin(trainer, pl_module)

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.enabled:
            self._galleries.take(trainer, pl_module, outputs, batch, dataloader_idx)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.enabled:
            self._galleries.end(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if ends_phase(trainer):
            self._write(trainer, pl_module, report_facts.outcome(trainer, ended=False))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = self._write(trainer, pl_module, report_facts.outcome(trainer, ended=True))
        if path is not None:
            rank_zero_info(f"The report of this run is {shown(path)}")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._write(trainer, pl_module, report_facts.outcome(trainer, ended=True, exception=exception))

    def _write(self, trainer: pl.Trainer, module: pl.LightningModule, outcome: Outcome) -> Path | None:
        """The page, unless training never began; what goes wrong with it neither ends the run nor hides its error."""
        if not trainer.is_global_zero or self._since is None or is_dev_run(trainer):
            return None
        path = run_dir(trainer) / "report.html"
        try:
            self.history.flush()
            report = report_facts.make_report(trainer, module, self.history, outcome, self._seconds(), self._origin)
            report = replace(report, predictions=self._galleries.predictions, top_losses=self._galleries.top_losses)
            path.write_text(render(report), encoding="utf-8", errors="backslashreplace")
        except Exception as error:
            rank_zero_warn(f"RunReport: {shown(path)} was not written: {type(error).__name__}: {error}")
            return None
        return path

    def _seconds(self) -> float:
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seconds": self._seconds()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._before = state_dict["seconds"]
