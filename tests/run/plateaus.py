"""Runs whose validations follow a script, in a process of their own: ``python -m tests.run.plateaus OUT [options]``.

Phase by phase the loss that is validated falls, then stands; so the end of a phase is known beforehand.
"""

import argparse
import os
import random
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, Probe, loader, quiet_trainer

SCRIPT = [3.0, 2.0, 2.5, 2.5, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]
"""Of the validations: two phases with a patience of two end after the fourth and the seventh epoch."""


class Scripted(ForeignNet):
    """Logs what :data:`SCRIPT` says; of two ranks the second, asked alone, would not end the first phase."""

    def validation_step(self, batch, batch_idx):
        offset = -0.6 if self.global_rank == 1 and self.current_epoch == 3 else 0.0
        self.log("val_loss", torch.tensor(SCRIPT[self.current_epoch] + offset))


def phases(schedule: str = "constant", restore: bool = False, by_hand: bool = False) -> list[Phase]:
    if by_hand:
        return [Phase(4, "head", 1e-2, schedule=schedule), Phase(3, "all", 1e-3, schedule=schedule)]
    until = {"until": "val_loss", "patience": 2, "restore_best": restore}
    return [
        Phase(6, "head", 1e-2, schedule=schedule, **until),
        Phase(6, "all", 1e-3, schedule=schedule, **until),
    ]


class Kill(pl.Callback):
    """Ends the process as a kill would, at the given moments: (hook, how often it was called)."""

    def __init__(self, hook: str, count: int) -> None:
        self.left = count
        setattr(self, hook, self._count)

    def _count(self, trainer, *args, **kwargs):
        self.left -= not trainer.sanity_checking
        if self.left == 0:
            os._exit(17)


HOOKS = {
    "on_train_batch_start": 28,
    "on_before_optimizer_step": 28,
    "on_train_batch_end": 28,
    "on_validation_start": 7,
    "on_validation_batch_end": 14,
    "on_validation_end": 7,
    "on_train_epoch_end": 7,
    "on_train_epoch_start": 7,
}
"""Where a run can be killed, and how often it comes by."""


def moments(count: int, seed: int) -> list[tuple[str, int]]:
    draw = random.Random(seed)
    hooks = [draw.choice(sorted(HOOKS)) for _ in range(count)]
    return [(hook, draw.randint(1, HOOKS[hook])) for hook in hooks]


SAVES = {
    "batch": {"every_n_train_steps": 1},
    "validation": {"save_on_train_epoch_end": False},
    "epoch": {"save_on_train_epoch_end": True},
}
"""When the only checkpoint is written."""


def train(out: Path, given: list[Phase], *, kill=None, resume=None, saves="epoch", extra=(), **options) -> dict:
    out.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(7, verbose=False)
    fine_tune, probe = FineTune(given), Probe()
    saver = ModelCheckpoint(out, "last", enable_version_counter=False, **SAVES[saves])
    killer = [Kill(*kill)] if kill else []
    callbacks = [*killer, fine_tune, probe, *extra, saver]
    trainer = quiet_trainer(out, callbacks=callbacks, enable_checkpointing=True, **options)
    module = Scripted("adamw")
    trainer.fit(module, loader(16, 4, shuffle=True), loader(8, 4, seed=1), ckpt_path=resume)
    return {
        "params": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "rates": probe.lrs,
        "plan": fine_tune.plan_of_run,
        "lengths": [phase.epochs for phase in fine_tune.plan_of_run.phases],
        "epochs": trainer.current_epoch,
        "rank": trainer.global_rank,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--kill", nargs=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--saves", default="batch")
    parser.add_argument("--ranks", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kill = (args.kill[0], int(args.kill[1])) if args.kill else None
    last = args.out / "last.ckpt"
    resume = last if args.resume and last.exists() else None
    options = {"strategy": "ddp", "devices": args.ranks} if args.ranks > 1 else {}
    result = train(args.out, phases(restore=args.restore), kill=kill, resume=resume, saves=args.saves, **options)
    del result["plan"]
    torch.save(result, args.out / f"rank{result['rank']}.pt")


if __name__ == "__main__":
    main()
    sys.exit(0)
