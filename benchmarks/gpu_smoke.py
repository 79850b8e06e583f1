"""Does everything work on this device? The first part of ``gpu.py``; ``pytest -m gpu`` holds each check as a test.

Each check trains for seconds on real images from the packaged weights, and raises where something is not as it should.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pandas as pd
import torch
from gpu_waits import Waits  # beside this file
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import (
    FineTune,
    ImageClassifier,
    ImageData,
    ImageRegressor,
    LogConfusion,
    LogPredictions,
    LRRangeTest,
    MultiLabelClassifier,
    Phase,
    ProgressiveResizing,
    TrainingDiagnosis,
    UNetSegmenter,
    load,
)
from lightning_finetune.after.export import export

if TYPE_CHECKING:
    from gpu_part import Part

SIZE, BATCH, BATCHES = 64, 8, 5  # of an epoch
VOID = 11
PHASES = [Phase(1, "head", 3e-3), Phase(1, "all", (1e-5, 1e-3))]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
KINDS = ("classes", "labels", "masks", "numbers")


@dataclass(frozen=True)
class Ground:
    """Where the checks run: data sets, a folder to write to, and ``"cuda"`` or ``"cpu"``."""

    data: Path
    folder: Path
    device: str


def run(part: Part) -> None:
    """Every check, one row each."""
    for name, check in checks_of(part.device).items():
        with tempfile.TemporaryDirectory() as folder:
            part.row(name, partial(check, Ground(part.data, Path(folder), part.device)))


# -- what the checks train ---------------------------------------------------------------------------------------------


def images(ground: Ground, kind: str) -> Any:
    """A part of the tiles with their land use, their labels or how many those are, or of the streets with masks."""
    options: Any = {"size": SIZE, "batch_size": BATCH, "num_workers": 2}
    if kind == "masks":
        return ImageData.from_folder(
            ground.data / "camvid", "train", "val", masks="masks", codes="codes.txt", **{**options, "size": (96, 128)}
        )
    table = pd.read_csv(ground.data / "satellite/labels.csv").sample(frac=1, random_state=0)
    table = table.groupby(["is_valid", "landuse"]).head(2)  # of 21 classes
    table["count"] = table["tags"].str.count(" ") + 1.0
    columns: Any = {
        "classes": {"label_col": "landuse"},
        "labels": {"label_col": "tags", "label_delim": " "},
        "numbers": {"numbers": "count"},
    }
    root = ground.data / "satellite"
    return ImageData.from_df(table, root, folder="images", valid_col="is_valid", **columns[kind], **options)


def task(kind: str, classes: int) -> Any:
    """The task for such data, from the packaged weights."""
    if kind == "masks":
        return UNetSegmenter(num_classes=classes, ignore_index=VOID)
    if kind == "numbers":
        return ImageRegressor(num_outputs=classes)
    return {"classes": ImageClassifier, "labels": MultiLabelClassifier}[kind](num_classes=classes)


def fit(
    ground: Ground,
    *callbacks: Callback,
    kind: str = "classes",
    resume: Path | None = None,
    **settings: Any,
) -> pl.Trainer:
    """Train; what a run is made of follows from its arguments alone."""
    pl.seed_everything(0, verbose=False)
    data = images(ground, kind)
    trainer = make_trainer(ground, *callbacks, **settings)
    trainer.fit(task(kind, data.num_classes), data, ckpt_path=resume)
    return trainer


def make_trainer(ground: Ground, *callbacks: Callback, **settings: Any) -> pl.Trainer:
    """One device, few batches, nothing shown; 16-mixed also on the CPU, where Lightning takes it as a plugin alone."""
    if ground.device == "cpu" and settings.get("precision") == "16-mixed":
        settings.pop("precision")
        settings["plugins"] = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(
        accelerator="gpu" if ground.device == "cuda" else "cpu",
        devices=1,
        limit_train_batches=BATCHES,
        limit_val_batches=2,
        default_root_dir=ground.folder,
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, **silent, **settings},
    )


def weights(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Of the model, in the memory of this process."""
    return {name: value.detach().cpu().clone() for name, value in trainer.lightning_module.state_dict().items()}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """Names of those whose bits are not the same."""
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def scaler_of(trainer: pl.Trainer) -> dict[str, Any] | None:
    """State of the loss scaler, in a precision that has one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else dict(scaler.state_dict())


# -- the checks --------------------------------------------------------------------------------------------------------


def trains(kind: str, precision: str, ground: Ground) -> dict[str, Any]:
    """All of a task's run, with the callbacks that look at it, stays finite and ends."""
    start = Weights()
    shown = (LogPredictions(4), LogConfusion(), TrainingDiagnosis())
    trainer = fit(ground, FineTune(PHASES), start, *shown, kind=kind, precision=precision)
    loss = float(trainer.callback_metrics["val_loss"])
    assert torch.tensor(loss).isfinite(), loss
    assert trainer.global_step == len(PHASES) * BATCHES
    assert trainer.strategy.root_device.type == ground.device
    assert differing(start.values, weights(trainer))
    scaler = scaler_of(trainer)
    assert (scaler is not None) == (precision == "16-mixed")
    return {"val_loss": loss, **({} if scaler is None else {"scale": scaler["scale"]}), **memory(ground)}


def memory(ground: Ground) -> dict[str, Any]:
    """Most megabytes of the device since it was asked last."""
    if ground.device != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return {"MB": round(most)}


def recipe(ground: Ground) -> dict[str, Any]:
    """What the command does where nothing is said: a head that is solved, then all layers."""
    found = {}
    for kind in KINDS:
        trainer = fit(ground, FineTune(2), kind=kind, precision="bf16-mixed")
        found[f"{kind}, val_loss"] = float(trainer.callback_metrics["val_loss"])
        if kind == "classes":
            found["error"] = float(trainer.callback_metrics["val_error_rate"])
    assert all(torch.tensor(value).isfinite() for value in found.values()), found
    assert found["error"] < 0.85, found  # by chance 0.95
    return found


class Weights(Callback):
    """Keeps the weights with which training began, and says what moved in each epoch."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.moved: list[set[str]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep them."""
        self.values = self.last = weights(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare them with those of the epoch before."""
        now = weights(trainer)
        self.moved.append(differing(self.last, now))
        self.last = now


def unfreezing(ground: Ground) -> dict[str, Any]:
    """Frozen layers, their statistics included, keep their bits, and then move."""
    seen = Weights()
    fit(ground, FineTune(PHASES), seen, precision="bf16-mixed")
    head, everything = ({name for name in moved if name.startswith("model.")} for moved in seen.moved)
    assert head
    assert all(name.startswith("model.head.") for name in head), sorted(head)[:10]
    assert any(name.startswith("model.backbone.") for name in everything)
    return {"moved": f"{len(head)}, then {len(everything)}"}


def range_test(ground: Ground) -> dict[str, Any]:
    """A run with two range tests ends with the bits, and the loss scaler, of one without."""
    tests = LRRangeTest(num_steps=20, at_epochs=(0, 1), apply=False)
    exact: Any = {"precision": "16-mixed", "deterministic": "warn"}
    without, tested = fit(ground, FineTune(PHASES), **exact), fit(ground, FineTune(PHASES), tests, **exact)
    assert len(tests.results) == 2
    assert differing(weights(without), weights(tested)) == set()
    assert scaler_of(without) == scaler_of(tested)
    return {"steps": " and ".join(str(len(curve.lrs)) for curve in tests.results.values())}


def resume(ground: Ground) -> dict[str, Any]:
    """A run that goes on from within an epoch ends with the bits of one that never stopped."""
    saver = ModelCheckpoint(ground.folder, "{step}", every_n_train_steps=BATCHES + 2, save_top_k=-1)
    exact: Any = {"precision": "16-mixed", "deterministic": "warn"}
    whole = fit(ground, FineTune(PHASES), saver, **exact, enable_checkpointing=True)
    again = fit(ground, FineTune(PHASES), resume=ground.folder / f"step={BATCHES + 2}.ckpt", **exact)
    assert whole.global_step == again.global_step == len(PHASES) * BATCHES
    assert differing(weights(whole), weights(again)) == set()
    assert differing(slots(whole), slots(again)) == set()
    assert scaler_of(whole) == scaler_of(again)
    return {"step": BATCHES + 2}


def slots(trainer: pl.Trainer) -> dict[str, Tensor]:
    """State of the optimizer, by parameter and name."""
    state = trainer.optimizers[0].state_dict()["state"]
    return {f"{place} {name}": value.cpu() for place, own in state.items() for name, value in own.items()}


class Sizes(Callback):
    """Height of the training images that the network gets, in each epoch."""

    def __init__(self) -> None:
        self.seen: list[set[int]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at what goes in."""
        pl_module.model.register_forward_pre_hook(self._look)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Another epoch."""
        self.seen.append(set())

    def _look(self, model: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if model.training and self.seen:
            self.seen[-1].add(inputs[0].shape[-1])


def resizing(ground: Ground) -> dict[str, Any]:
    """Images grow, in our workers and, with anybody's loader, on the device."""
    workers, device = Sizes(), Sizes()
    fit(ground, FineTune([Phase(1, "head", 3e-3, size=SIZE), Phase(1, "all", 1e-3, size=96)]), workers)
    noise = TensorDataset(torch.randn(BATCH * BATCHES, 3, SIZE, SIZE), torch.randint(0, 3, (BATCH * BATCHES,)))
    trainer = make_trainer(ground, ProgressiveResizing({0: SIZE, 1: 96}), device, max_epochs=2)
    trainer.fit(task("classes", 3), DataLoader(noise, BATCH))
    assert workers.seen == device.seen == [{SIZE}, {96}], (workers.seen, device.seen)
    return {"sizes": f"{SIZE}, then 96"}


def ddp(ground: Ground) -> dict[str, Any]:
    """Wrapped by DDP on the one device, the same weights come out."""
    exact: Any = {"deterministic": "warn"}
    alone = weights(fit(ground, FineTune(PHASES), **exact))
    try:
        wrapped = weights(fit(ground, FineTune(PHASES), strategy="ddp", **exact))
        backend = torch.distributed.get_backend()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert backend == ("nccl" if ground.device == "cuda" else "gloo")
    largest = max(float((value.float() - wrapped[name].float()).abs().max()) for name, value in alone.items())
    assert largest < 1e-3, largest
    return {"backend": backend, "largest difference": largest}


def exporting(ground: Ground) -> dict[str, Any]:
    """A task that lies on the device is exported, and the file gives its probabilities."""
    data = images(ground, "classes")
    module = ImageClassifier("test_efficientnet", num_classes=data.num_classes, weights=False)
    make_trainer(ground, FineTune(PHASES)).fit(module, data)
    path = export(module.to(ground.device), ground.folder / "model.pt2")
    assert next(module.parameters()).device.type == ground.device
    return {"MB": path.stat().st_size / 2**20}


def prediction(ground: Ground) -> dict[str, Any]:
    """A checkpoint says the same of files on the device as on the CPU."""
    trainer = fit(ground, FineTune(PHASES), precision="bf16-mixed")
    trainer.save_checkpoint(ground.folder / "end.ckpt")
    model, files = load(ground.folder / "end.ckpt"), sorted((ground.data / "satellite/images").glob("*.jpg"))[:40]
    here, there = model.predict(files), model.to(ground.device).predict(files)
    pairs = [(one.probabilities, other.probabilities) for one, other in zip(here, there, strict=True)]
    largest = max(abs(one[name] - other[name]) for one, other in pairs for name in one)
    assert largest < 0.02, largest
    return {"largest difference": largest}


def waits(ground: Ground) -> dict[str, Any]:
    """On the way of a training step nothing of this package waits for the device."""
    found, others = {}, set()
    for kind in KINDS:
        watch = Waits(ground.device)
        fit(ground, FineTune(PHASES), watch, TrainingDiagnosis(), kind=kind, precision="bf16-mixed")
        assert watch.steps, "no step was watched"
        assert not watch.ours, watch.ours
        found[kind] = f"{watch.steps} steps, {len(watch.others)} waits of others"
        others |= {*watch.others}
    return {**found, "others": sorted(others)}


def command(ground: Ground) -> dict[str, Any]:
    """The command trains, and leaves its report and its checkpoint."""
    root = ground.data / "satellite"
    options = {
        "data": "lightning_finetune.ImageData.from_csv",
        "data.root": root,
        "data.label_col": "landuse",
        "data.valid_col": "is_valid",
        "data.folder": "images",
        "data.size": SIZE,
        "data.batch_size": BATCH,
        "data.num_workers": 2,
        "fine_tune.epochs": 2,
        "trainer.accelerator": "gpu" if ground.device == "cuda" else "cpu",
        "trainer.devices": 1,  # of several the others would be waited for, as DDP left its variables
        "trainer.limit_train_batches": BATCHES,
        "trainer.limit_val_batches": 2,
        "trainer.precision": "bf16-mixed",
        "trainer.logger.save_dir": ground.folder,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_finetune", "fit", *words],
        cwd=ground.folder,
        env={**os.environ, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = {path.name for path in ground.folder.rglob("*") if path.is_file()}
    assert {"report.html", "run.png", "predictions.png", "best.ckpt", "last.ckpt"} <= made, made
    return {"files": len(made)}


def named() -> Iterator[tuple[str, Callable[[Ground], dict[str, Any]]]]:
    """All checks, the important ones first."""
    for precision in PRECISIONS:
        for kind in ("classes", "labels", "masks"):
            yield f"{kind}, {precision}", partial(trains, kind, precision)
    yield "numbers, bf16-mixed", partial(trains, "numbers", "bf16-mixed")
    for check in (recipe, unfreezing, range_test, resume, waits, resizing, ddp, prediction, exporting, command):
        yield check.__name__.replace("_", " "), check


CHECKS = dict(named())


def checks_of(device: str) -> dict[str, Callable[[Ground], dict[str, Any]]]:
    """All, but on the CPU not the one for which it has no fast kernels, and takes minutes."""
    return {name: check for name, check in CHECKS.items() if device == "cuda" or name != "masks, 16-mixed"}
