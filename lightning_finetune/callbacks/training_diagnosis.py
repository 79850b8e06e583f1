"""What a run says about its learning rate and its length, in words."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.diagnosis import Curves, Finding
from lightning_finetune.engine.phase_diagnosis import diagnose_phase, diagnose_run
from lightning_finetune.run.artifacts import save_table
from lightning_finetune.run.phase_ends import ends_phase, plan_of
from lightning_finetune.run.recording import RecordingCallback
from lightning_finetune.run.trainer import is_dev_run


class TrainingDiagnosis(RecordingCallback):
    """Tell after each phase and after the run whether rates were too high or low, epochs too many or few.

    It looks for the lessons' "things to look out for", and gives the numbers and what to try. It also finds a loss that
    spikes or is not finite, a head that learns nothing, and a frozen phase that should have been longer. The first
    process prints the findings, and writes them to ``diagnosis.csv`` and the loggers when the run ends. Works with any
    module that logs ``val_loss``; otherwise it uses the training loss alone. The rules are in
    :mod:`lightning_finetune.engine.diagnosis`; ``docs/callbacks/training-diagnosis.md`` tells how often they are right.

    Attributes:
        findings: Findings of each finished phase, by its number from 1; the key 0 has those of the whole run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.findings: dict[int, list[Finding]] = {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.findings = {}

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        plan = plan_of(trainer)
        if plan is not None and len(plan.phases) > 1 and ends_phase(trainer):
            phase = plan.phase_of(trainer.current_epoch)
            self.findings[phase + 1] = diagnose_phase(self.curves, plan, phase)
            epochs, limit = plan.phases[phase].epochs, plan.limits[phase]
            self._tell(phase + 1, f"phase {phase + 1}" + (f" ({epochs} of {limit} epochs)" if epochs != limit else ""))

    @property
    def curves(self) -> Curves:
        """What has been recorded."""
        self.history.flush()
        return Curves(self.history.steps, self.history.losses, self.history.measured)

    def _conclude(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if not self.history.steps or is_dev_run(trainer):
            return
        self.findings = diagnose_run(self.curves, plan_of(trainer), trainer.current_epoch)
        self._tell(0, "the run")
        rows = [
            [str(phase or "all"), "fault" if finding.fault else "note", finding.name, finding.evidence, finding.advice]
            for phase, findings in sorted(self.findings.items())
            for finding in findings
        ]
        if trainer.is_global_zero:
            save_table(trainer, "diagnosis", ("phase", "kind", "finding", "evidence", "try"), rows)

    on_train_end = on_exception = _conclude

    def _tell(self, key: int, where: str) -> None:
        for finding in self.findings[key]:
            rank_zero_info(f"Diagnosis of {where}: {finding}")
