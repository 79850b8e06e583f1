"""All callbacks and tasks in several processes, one after the other: ``python -m tests.promises.distributed OUT N``.

Fails where replicas differ by a bit after training on uneven data.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, LogConfusion, LogPredictions
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.processes import leave_group
from tests.callbacks.situations import CALLBACKS
from tests.foreign import ForeignNet, loader, quiet_trainer
from tests.runs import Agree
from tests.tasks.subjects import TASKS, batches


def main() -> None:
    out, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for name, make in CALLBACKS.items():
        unfreezing = [] if name in ("FineTune", "GradualUnfreezing") else [GradualUnfreezing({0: "head", 1: "all"})]
        trainer = begin(out / name, processes, [make(), *unfreezing, Agree()], max_epochs=3)
        trainer.fit(ForeignNet(), loader(50, 4, shuffle=True), loader(13, 2, seed=1))
        done(trainer, name)
    for name, build in TASKS.items():
        phases = FineTune([Phase(1, "head", 1e-2), Phase(1, "all", ("find", 1e-2), size=64)])
        trainer = begin(out / name, processes, [phases, LogConfusion(), LogPredictions(4), Agree()])
        task = build()
        trainer.fit(task, batches(task.kind, 30, shuffle=True), batches(task.kind, 13))
        done(trainer, name)


def begin(folder: Path, processes: int, callbacks: list[pl.Callback], **options) -> pl.Trainer:
    pl.seed_everything(1, verbose=False)
    return quiet_trainer(
        folder, callbacks=callbacks, strategy="ddp", devices=processes, enable_checkpointing=True, **options
    )


def done(trainer: pl.Trainer, name: str) -> None:
    assert trainer.global_step > 2
    assert trainer.world_size == int(sys.argv[2])
    if trainer.is_global_zero:
        sys.stdout.write(f"agreed: {name}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
    leave_group()
