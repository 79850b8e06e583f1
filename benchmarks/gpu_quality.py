"""How well does it learn at full size? The last part of ``gpu.py``: land use at 224 pixels, the longest run that fits.

A first run of two epochs says how long an epoch takes; then follows one as long as the time that is left allows. Both
follow the recipe of the command.
"""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_finetune import FineTune, ImageClassifier, ImageData

if TYPE_CHECKING:
    from gpu_part import Part

LONGEST = 40  # epochs, past which little is learned
SHARE = 0.8  # of the time that is left which is planned for


def run(part: Part) -> None:
    """A short run, and the longest that fits."""
    short = part.row("2 epochs", partial(learn, part, 2), needs=15)
    if not short or part.small:
        return
    seconds = short["s of an epoch"]
    epochs = min(LONGEST, int(SHARE * part.left / seconds))
    if epochs > 2:
        part.row(f"{epochs} epochs", partial(learn, part, epochs))


def learn(part: Part, epochs: int) -> dict[str, Any]:
    """Train and validate after each epoch; error rates, best and last, and seconds."""
    pl.seed_everything(0, verbose=False)
    pixels, workers = (64, 2) if part.small else (224, 16)
    data = ImageData.from_csv(
        part.data / "satellite",
        label_col="landuse",
        valid_col="is_valid",
        folder="images",
        size=pixels,
        batch_size=32,
        num_workers=workers,
        augment="satellite",
    )
    timeline = Timeline()
    trainer = pl.Trainer(
        accelerator="gpu" if part.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FineTune(epochs), timeline],
        **({"limit_train_batches": 8} if part.small else {}),  # type: ignore[arg-type]
    )
    trainer.fit(ImageClassifier(num_classes=data.num_classes), data)
    ends = [0.0, *timeline.ends]
    return {
        "error": timeline.errors[-1],
        "best error": min(timeline.errors),
        "s in all": ends[-1],
        "s of an epoch": max(end - start for start, end in itertools.pairwise(ends[1:])),
        "errors": [round(error, 4) for error in timeline.errors],
    }


class Timeline(Callback):
    """Seconds from the start, and the error, at the end of each epoch."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.errors: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After validation."""
        self.errors.append(float(trainer.callback_metrics["val_error_rate"]))  # waits for the device
        self.ends.append(time.perf_counter() - self._start)
