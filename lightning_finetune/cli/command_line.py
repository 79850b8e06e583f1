"""The command ``lightning-finetune``: LightningCLI with this package's classes as its defaults."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_finetune.__about__ import __version__
from lightning_finetune.callbacks import FineTune, LogConfusion, LogPredictions, PlotRun, RunReport, TrainingDiagnosis
from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint
from lightning_finetune.callbacks.epoch_table import EpochTable
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.cli.loggers import HERE, RunLogger, stay_offline_without_key, through_latest
from lightning_finetune.cli.machine import in_a_sentence
from lightning_finetune.cli.messages import beside_a_progress_bar, end
from lightning_finetune.cli.parser import ShortErrorsParser, take_old_configurations
from lightning_finetune.cli.progress_line import ProgressLine
from lightning_finetune.cli.say_data import SayData
from lightning_finetune.cli.subcommands import CommandTrainer
from lightning_finetune.engine.processes import leave_group
from lightning_finetune.errors import CheckpointError, FinetuneError
from lightning_finetune.run.artifacts import run_dir, shown
from lightning_finetune.run.noise import without_noise
from lightning_finetune.run.trainer import max_epochs, steps_per_epoch
from lightning_finetune.tasks import BaseTask
from lightning_finetune.tasks.networks.weights import read_file
from lightning_finetune.tasks.shared.record import KEY

CALLBACKS = {
    "fine_tune": FineTune,
    "epoch_table": EpochTable,
    "log_predictions": LogPredictions,
    "log_confusion": LogConfusion,
    "plot_run": PlotRun,
    "diagnosis": TrainingDiagnosis,
    "report": RunReport,
    "best": BestCheckpoint,
    "last": LastCheckpoint,
}
"""Named groups of the parser: ``--fine_tune.lr``. What lies in ``trainer.callbacks``, a sweep could not reach."""

SUBJECTS = {
    "model": (LightningModule, "lightning_finetune.ImageClassifier"),
    "data": (LightningDataModule, "lightning_finetune.ImageData.from_folder"),
}
"""Any subclass may be named; these are what is meant without."""

RESUME = ("ckpt_path", "weights_only")
"""Arguments that not every subcommand has: where they say nothing, a saved configuration leaves them out."""

PLACES = ("best", "last", "hpc")
"""What Lightning takes as a checkpoint that it finds itself."""

LOG_EVERY, POINTS = 10, 40
"""Steps between two points of the loss; and how many points of it a run should have at least, if it has the steps."""


class SaveConfig(SaveConfigCallback):
    """Writes the whole configuration into the run's own directory."""

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = run_dir(trainer)
        config = self.config.clone()
        for name in RESUME:
            if config.get(name) is None:
                config.pop(name, None)
        self.parser.save(config, folder / self.config_filename, skip_none=False, overwrite=True)
        rank_zero_info(f"The files of this run go to {shown(folder)}")
        whole = yaml.safe_load((folder / self.config_filename).read_text())
        for logger in trainer.loggers:
            trains = stage == "fit" and trainer.checkpoint_callbacks  # `plan` and `lr-find` drop them
            if isinstance(logger, RunLogger) and trains:
                logger.is_latest()
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update({"cli": whole}, allow_val_change=True)
                _say_where(logger)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log more often in a short run, unless the user says how often: its loss would leave a point or none."""
        steps = sum(steps_per_epoch(trainer, max_epochs(trainer) or 1) or [LOG_EVERY * POINTS])
        if trainer.log_every_n_steps == LOG_EVERY:  # type: ignore[attr-defined]  # set by a connector
            trainer.log_every_n_steps = max(1, min(LOG_EVERY, steps // POINTS))  # type: ignore[attr-defined]

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what to do with the model."""
        best = [one.best_model_path for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)]
        if best and best[0] and isinstance(pl_module, BaseTask):
            path = shown(Path(best[0]))
            rank_zero_info(f"To predict other images:\n  lightning-finetune predict --ckpt_path {path} --images FOLDER")


def _say_where(logger: WandbLogger) -> None:
    """That nothing is uploaded, once, and how it can be."""
    if os.environ.get("WANDB_MODE") == "offline":
        folder = shown(Path(logger.experiment.dir).parent)
        rank_zero_info(f"Weights & Biases logs offline (no key was found). To upload: wandb login; wandb sync {folder}")


class FineTuneCLI(LightningCLI):
    """LightningCLI with this package's classes as its defaults; any module and data module by ``class_path``."""

    def __init__(self, args: list[str] | None = None, **settings: Any) -> None:
        self.defaults = {name: default for name, (_, default) in SUBJECTS.items()}
        if writer := writer_of_checkpoint(sys.argv[1:] if args is None else args):
            self.defaults["model"] = writer  # LightningCLI takes a checkpoint's hyper-parameters for the default's
        super().__init__(LightningModule, LightningDataModule, args=args, **settings)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        ours = {name: {"model", "datamodule"} for name in ("lr_find", "plan", "show_batch", "interpret")}
        return {**LightningCLI.subcommands(), **ours}

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        # Unlike Lightning's way, with a default from the start: an argument that may be None hides errors of its class.
        if isinstance(parser, ShortErrorsParser):
            parser.subjects = tuple(SUBJECTS)
        for name, (kind, _) in SUBJECTS.items():
            default = {"class_path": self.defaults[name]}
            parser.add_subclass_arguments(kind, name, fail_untyped=False, required=True, default=default)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        for name in dict.fromkeys(task.counted[0] for task in BaseTask.known().values()):
            parser.link_arguments("data.num_classes", f"model.init_args.{name}", apply_on="instantiate")

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """With a progress line of our own, unless another bar or none is asked for."""
        config = self.config_init[self.subcommand]["trainer"]
        given = config["callbacks"] or []
        given = [*given] if isinstance(given, list) else [given]
        if config["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in given):
            given.append(ProgressLine())
        return super().instantiate_trainer(callbacks=given, **kwargs)

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if path := config.get("ckpt_path"):
            config["ckpt_path"] = through_latest(path)
        logger, root = config["trainer"]["logger"], config["trainer"]["default_root_dir"]
        if root is not None and isinstance(logger, Namespace) and logger["init_args"].get("save_dir") == HERE:
            logger["init_args"]["save_dir"] = root  # ours, as Lightning's own logger does

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        given = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        path = given.get("ckpt_path")
        if path and path not in PLACES and "://" not in str(path) and not str(path).startswith("registry"):
            read_file(through_latest(path))  # Lightning reads it next, in words of its own

    def before_fit(self) -> None:
        """Have it said what will be trained on."""
        self.trainer.callbacks.append(SayData())  # type: ignore[attr-defined]  # set by a connector

    def _need_checkpoint(self) -> None:
        if isinstance(self.model, BaseTask) and self.config[self.subcommand].get("ckpt_path") is None:
            raise FinetuneError(
                f"{self.subcommand} needs a trained model, got none: its head would be random. "
                "Give --ckpt_path lightning_logs/version_N/checkpoints/best.ckpt"
            )

    before_validate = before_test = before_predict = _need_checkpoint


def writer_of_checkpoint(words: Sequence[str]) -> str | None:
    """The class of the task that wrote the checkpoint named among ``words``; None if there is none of ours."""
    after = [value for word, value in pairwise(words) if word == "--ckpt_path"]
    joined = [word.partition("=")[2] for word in words if word.startswith("--ckpt_path=")]
    paths = [Path(through_latest(path)) for path in [*after, *joined]]
    if not paths or not paths[-1].is_file():
        return None
    with suppress(CheckpointError):  # which the parser says next
        kept = read_file(paths[-1])
        task = BaseTask.known().get(kept.get(KEY, {}).get("task"))
        return None if task is None else f"{task.__module__}.{task.__qualname__}"
    return None


def run(args: list[str] | None = None) -> FineTuneCLI:
    """Run the command with ``args``, or those of the process.

    Raises:
        FinetuneError: What :func:`main` prints.
    """
    take_old_configurations()
    settings: dict[str, Any] = {
        "logger": {"class_path": "lightning_finetune.cli.loggers.RunLogger"},
        "max_epochs": -1,  # what FineTune takes as: the sum of my phases
        "log_every_n_steps": LOG_EVERY,  # 50, Lightning's own, is more than an epoch of a small data set
        "enable_model_summary": False,  # it counts what trains before the phases begin
    }
    return FineTuneCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_class=CommandTrainer,
        save_config_callback=SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults=settings,
        seed_everything_default=42,
        parser_class=ShortErrorsParser,
        parser_kwargs={"version": __version__, "prog": "lightning-finetune"},
        auto_configure_optimizers=False,
        args=args,
    )


def main() -> None:
    """Run the command of the process; an error of this package ends it with its message alone."""
    stay_offline_without_key()
    try:
        with without_noise(), beside_a_progress_bar():
            run()
    except (FinetuneError, MisconfigurationException) as error:
        end(str(error))
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning's own is 0, for which a scheduler would take the job as done
    except Exception as error:
        if (said := in_a_sentence(error)) is None:
            raise
        end(said)
    finally:
        leave_group()
