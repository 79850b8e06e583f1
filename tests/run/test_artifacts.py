"""What the callbacks give to loggers, read back from the files of real runs."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_finetune.callbacks import FineTune, LogPredictions, PlotRun
from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.engine.phases import Phase
from tests.foreign import fitted, loader
from tests.wandb_files import read_history, read_records

PHASES = [Phase(1, "head", 1e-2), Phase(1, "all", (1e-4, 1e-3))]
NAMES = {"lr/stem", "lr/head", "momentum", "phase", "image_size", "trained_fraction", "train_loss", "val_loss"}
NAMES |= {"best/val_loss"}


def fit(tmp_path: Path, logger: Logger) -> None:
    callbacks = [FineTune(PHASES), PlotRun(), LogPredictions(4)]
    fitted(tmp_path, *callbacks, data=(loader(), loader(16, seed=1)), logger=logger, log_every_n_steps=2, max_epochs=2)


def test_tensorboard_holds_rates_phases_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, logger)
    logger.finalize("success")
    events = accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["scalars"]) >= NAMES
    assert [(event.step, event.value) for event in events.Scalars("phase")] == [
        (0, 1),
        (2, 1),
        (4, 1),
        (6, 2),
        (8, 2),
        (10, 2),
    ]
    assert [event.step for event in events.Images("run")] == [6, 12]
    assert "plan/text_summary" in events.Tags()["tensors"]
    assert len(events.Images("predictions")) == 2


def test_weights_and_biases_offline_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    fit(tmp_path, WandbLogger(project="tests", save_dir=tmp_path, offline=True))
    wandb.finish()
    history = read_history(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    assert set(history) >= NAMES | {"run.filenames", "predictions.filenames"}
    assert [value for _, value in history["phase"]] == [1, 1, 1, 2, 2, 2]
    assert [step for step, _ in history["phase"]] == [0, 2, 4, 6, 8, 10]
    fractions = [value for _, value in history["trained_fraction"]]
    assert fractions[0] < 0.1 < fractions[-1] == 1
    assert {value for _, value in history["image_size"]} == {8}
    losses, best = ([value for _, value in history[name]] for name in ("val_loss", "best/val_loss"))
    assert best == [min(losses[: k + 1]) for k in range(len(losses))]
    tables = [value for name in ("plan.path", "samples.path") for _, value in history[name]]
    written = [json.loads(next(tmp_path.glob(f"wandb/offline-run-*/files/{name}")).read_text()) for name in tables]
    assert [table["columns"] for table in written][-1] == ["image", "truth", "prediction", "wrong"]
    assert [len(table["data"]) for table in written] == [2, 4, 4]
    media = [value[0] for _, value in history["run.filenames"] + history["predictions.filenames"]]
    assert len(media) == 4
    assert all(next(tmp_path.glob(f"wandb/offline-run-*/files/{name}")).stat().st_size > 1000 for name in media)


def test_checkpoints_are_artifacts_of_which_one_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(project="tests", save_dir=tmp_path, log_model="all")
    callbacks = [FineTune(PHASES), BestCheckpoint(), LastCheckpoint()]
    fitted(tmp_path, *callbacks, data=(loader(), loader(16, seed=1)), logger=logger, enable_checkpointing=True)
    wandb.finish()
    found = {
        tuple(sorted(record.artifact.aliases))
        for record in read_records(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))
        if record.WhichOneof("record_type") == "artifact" and record.artifact.type == "model"
    }
    assert found == {("best", "latest"), ("latest",)}
