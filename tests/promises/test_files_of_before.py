"""A configuration and a checkpoint that an earlier version wrote go on working, in ``before/``."""

import csv
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from lightning_finetune import load
from lightning_finetune.cli import command_line
from lightning_finetune.cli.loggers import RunLogger
from tests.promises.before.tiny_net import TinyNet

BEFORE = Path(__file__).parent / "before"
CHECKPOINT = BEFORE / "epoch1.ckpt"


def test_a_run_that_was_stopped_goes_on_to_the_end_that_it_would_have_had(here: Path, photos: Path):
    (here / "photos").symlink_to(photos)
    with pytest.warns(UserWarning, match=r"`fine_tune.feature_cache` is left out"):
        made = command_line.run(["fit", "--config", str(BEFORE / "config.yaml"), "--ckpt_path", str(CHECKPOINT)])
    assert isinstance(made.trainer.logger, RunLogger)
    with Path("lightning_logs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert [row["epoch"] for row in rows] == ["2"]
    assert float(rows[0]["val_loss"]) == pytest.approx(0.99329, abs=2e-4), "what the earlier version came to"


def test_a_checkpoint_predicts(photos: Path):
    task = load(CHECKPOINT, model=TinyNet())
    kept = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    assert all(torch.equal(value, kept[name]) for name, value in task.state_dict().items() if name in kept)
    assert {*task.predict(photos / "valid/red/0.jpg").probabilities} == {"red", "green", "blue"}


@pytest.mark.parametrize(
    "name",
    [
        "callbacks.checkpoints.LastCheckpoint",
        "data.data_module.ImageDataModule",
        "data.mix.CutMix",
        "data.options.Options",
        "data.splits.Split",
        "export.export",
        "inference.load",
        "interpretation.Interpretation",
        "layer_groups.layer_groups",
        "loggers.stay_offline_without_key",
        "phases.Phase",
        "range_test.suggest",
        "schedules.rate",
        "tasks.heads.build_head",
        "tasks.losses.MaskLoss",
        "tasks.optimizers.fastai_adam",
        "tasks.symmetries.TTA",
    ],
)
def test_names_that_were_documented_are_found(name: str):
    module, _, attribute = f"lightning_finetune.{name}".rpartition(".")
    found = getattr(import_module(module), attribute)
    homes = [other for other in sys.modules if other.startswith("lightning_finetune.") and other != module]
    assert any(vars(sys.modules[home]).get(attribute) is found for home in homes), "the thing itself, not a copy"


def test_a_module_that_never_was_is_an_error_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"lightning_finetune\.fases"):
        import_module("lightning_finetune.fases")
