"""What a report tells of a run, asked of its trainer, module, data and callbacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.block.splits import Split
from lightning_finetune.engine.diagnosis import Curves, Finding
from lightning_finetune.engine.freezing import norm_params
from lightning_finetune.engine.history import LIMIT, History, planned
from lightning_finetune.engine.phase_diagnosis import OF_THE_RUN, diagnose_run
from lightning_finetune.run.artifacts import resume_command, run_dir, shown
from lightning_finetune.run.either_lightning import is_a
from lightning_finetune.run.phase_ends import layers_of, plan_of, plans_of, seed_of
from lightning_finetune.run.trainer import callbacks, max_epochs, max_steps
from lightning_finetune.show.report import Outcome, RangeTest, Report
from lightning_finetune.show.report.environment import command, hide_secrets, machine, versions
from lightning_finetune.show.shown_plan import bands_of
from lightning_finetune.tasks.base import BaseTask


def make_report(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    history: History,
    outcome: Outcome,
    seconds: float,
    origin: Mapping[str, str],
) -> Report:
    """All but the images.

    Args:
        trainer: Of the run.
        module: Its module.
        history: What was recorded, flushed.
        outcome: How the run ended.
        seconds: How long it trained.
        origin: When and from which code it was started.
    """
    plan = plan_of(trainer)
    return Report(
        title=title(module),
        outcome=outcome,
        history=history,
        seconds=seconds,
        made=trainer.global_step,
        subject=subject(trainer),
        classes=[str(name) for name in getattr(module, "classes", None) or ()],
        plan=plan,
        planned=planned_history(trainer, module, history),
        bands=bands_of(plan),
        findings=_findings(trainer, history, outcome),
        range_tests=range_tests(trainer),
        environment={**origin, **environment(trainer)},
        command=command(),
        resume=resume(trainer, outcome),
        configuration=configuration(trainer, module),
    )


def _findings(trainer: pl.Trainer, history: History, outcome: Outcome) -> dict[int, list[Finding]]:
    """The diagnosis; of a run that has not come to its end without what asks how far it came."""
    epochs = trainer.current_epoch + (outcome.kind == "running")  # counted only after the end of an epoch
    findings = diagnose_run(Curves(history.steps, history.losses, history.measured), plan_of(trainer), epochs)
    if outcome.kind != "finished":
        findings[0] = [finding for finding in findings[0] if finding.name not in OF_THE_RUN]
    return findings


def title(module: pl.LightningModule) -> str:
    """The task and the model that it was built with."""
    arguments = module.arguments if isinstance(module, BaseTask) else {}
    parts = [arguments.get(name) for name in ("model", "backbone")]
    named = [part if isinstance(part, str) else type(part).__name__ for part in parts if part is not None]
    return " ".join([type(module).__name__, *([" with ".join(named)] if named else [])])


def subject(trainer: pl.Trainer) -> list[str]:
    """The data, the optimizer and the batches, in short sentences."""
    data: Any = getattr(trainer, "datamodule", None)
    if isinstance(data, ImageDataModule):
        train, valid = (int((data.splits == split).sum()) for split in (Split.TRAIN, Split.VALID))
        told = f"{train} training and {valid} validation images"
    else:
        told = "Data from loaders" if data is None else f"Data of {type(data).__name__}"
    names = ", ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in trainer.optimizers))
    accumulated = f", {trainer.accumulate_grad_batches} a step" if trainer.accumulate_grad_batches > 1 else ""
    count = trainer.num_training_batches
    batches = "no known number of batches" if count == math.inf else f"{count} batches"
    return [f"{told}; {batches} an epoch{accumulated}; {names}."]


def outcome(trainer: pl.Trainer, ended: bool, exception: BaseException | None = None) -> Outcome:
    """How the run ended.

    Args:
        trainer: Of the run.
        ended: Whether it has; else a phase has ended.
        exception: What ended it before its time.
    """
    epochs = trainer.current_epoch + (not ended)  # counted only after the end of an epoch
    limits = (max_epochs(trainer), max_steps(trainer))
    came = f"{epochs}{'' if limits[0] is None else f' of {limits[0]}'} epochs and {trainer.global_step} optimizer steps"
    if isinstance(exception, KeyboardInterrupt):
        return Outcome("stopped", f"Stopped by hand after {came}.")
    if isinstance(exception, SIGTERMException):
        return Outcome("stopped", f"Stopped by SIGTERM after {came}.")
    if exception is not None:
        return Outcome("failed", f"Failed after {came}.", f"{type(exception).__name__}: {exception}")
    if not ended:
        return Outcome("running", f"Still running when this was written, after {came}.")
    done = (epochs, trainer.global_step)
    if any(limit is not None and count >= limit for count, limit in zip(done, limits, strict=True)):
        return Outcome("finished", f"Finished after {came}.")
    return Outcome("stopped", f"Ended early, after {came}.")


def planned_history(trainer: pl.Trainer, module: pl.LightningModule, history: History) -> History | None:
    """What the run's plans say of the steps that were recorded, and of some of those to come."""
    plans, layers = plans_of(trainer), layers_of(trainer)
    if not plans:
        return None
    total = max(len(plan) for plan in plans)
    after = history.steps[-1] + 1 if history.steps else 0
    norms = {id(param) for param in norm_params(module)} if any(plan.train_norm for plan in plans) else set()
    sizes = [[(param.numel(), id(param) in norms) for param in params] for params in layers.values()]
    shares = [sum(n for n, is_norm in each if is_norm) / max(sum(n for n, _ in each), 1) for each in sizes]
    return planned(plans, list(layers), [*history.steps, *range(after, total, -(-total // LIMIT))], shares)


def range_tests(trainer: pl.Trainer) -> list[RangeTest]:
    """Those of all callbacks, in order."""
    makers: list[Any] = [callback for callback in callbacks(trainer) if hasattr(callback, "range_tests")]
    tests = sorted((pair for maker in makers for pair in maker.range_tests()), key=lambda pair: pair[0])
    return [test for _, test in tests]


def environment(trainer: pl.Trainer) -> dict[str, str]:
    """Machine, devices, versions and what else a repetition needs; no environment variables, nothing secret."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    files = dict.fromkeys(shown(path) for path in checkpoints(trainer))
    return {
        "folder": shown(run_dir(trainer)),
        "checkpoints": ", ".join(files) or "none",
        "devices": f"{trainer.world_size} of {name}, {type(trainer.strategy).__name__}",
        "precision": str(trainer.precision),
        "seed": str(seed_of(trainer)),
        "machine": machine(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def checkpoints(trainer: pl.Trainer) -> list[Path]:
    """Files of the run's checkpoints, the newest first."""
    files = [
        Path(getattr(callback, name, ""))
        for callback in trainer.checkpoint_callbacks
        for name in ("last_model_path", "best_model_path")
    ]
    return sorted((path for path in files if path.is_file()), key=lambda path: -path.stat().st_mtime)


def resume(trainer: pl.Trainer, outcome: Outcome) -> tuple[str, str]:
    """How the run goes on: what for, and what to type."""
    saved = checkpoints(trainer)
    if outcome.kind == "finished":
        return "The run is complete: there is nothing to continue.", ""
    if not saved:
        return "No checkpoint was saved to continue from.", ""
    cli = next((callback for callback in callbacks(trainer) if is_a(callback, SaveConfigCallback)), None)
    if type(cli).__module__ == "lightning_finetune.cli.command_line":  # and not another LightningCLI
        return "To continue", resume_command(trainer, saved[0])
    if cli is not None:
        return "To continue, the same command with", f"--ckpt_path {shown(saved[0])}"
    return "To continue, with the same module, data and callbacks", f"trainer.fit(…, ckpt_path={shown(saved[0])!r})"


def configuration(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """That of the command, else the module's hyper-parameters; without what looks like a secret."""
    for callback in callbacks(trainer):
        if is_a(callback, SaveConfigCallback):
            return hide_secrets(callback.parser.dump(callback.config, skip_none=False))
    return hide_secrets("\n".join(f"{name}: {value!r}" for name, value in module.hparams.items()))
