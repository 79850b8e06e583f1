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
    timeline = Timeline()
    short = part.row("2 epochs", partial(learn, part, 2, timeline), needs=15, so_far=timeline.found)
    if not short or part.small:
        return
    seconds, timeline = short["s of an epoch"], Timeline()
    epochs = max(3, min(LONGEST, int(SHARE * part.left / seconds)))
    measure = partial(learn, part, epochs, timeline)
    part.row(f"{epochs} epochs", measure, needs=epochs * seconds, so_far=timeline.found)


def learn(part: Part, epochs: int, timeline: Timeline) -> dict[str, Any]:
    """Train and validate after each epoch; what ``timeline`` found."""
    pl.seed_everything(0, verbose=False)
    data = ImageData.from_csv(
        part.data / "satellite",
        label_col="landuse",
        valid_col="is_valid",
        folder="images",
        size=64 if part.small else 224,
        batch_size=32,
        num_workers=part.workers,
        augment="satellite",
    )
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
    return timeline.found


class Timeline(Callback):
    """Error rates, best and last, and seconds, after each epoch.

    Attributes:
        found: They, by name.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._ends: list[float] = []
        self._errors: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After validation."""
        self._errors.append(float(trainer.callback_metrics["val_error_rate"]))  # waits for the device
        self._ends.append(time.perf_counter() - self._start)
        later = [end - start for start, end in itertools.pairwise(self._ends)]
        self.found["error"], self.found["best error"] = self._errors[-1], min(self._errors)
        self.found["s in all"], self.found["s of an epoch"] = self._ends[-1], max(later, default=self._ends[0])
        self.found["errors"] = [round(error, 4) for error in self._errors]
