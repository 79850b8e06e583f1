"""What ``end_to_end.py`` runs: each way gives its timeline and its rate with all layers training."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SIZE, BATCH, WORKERS = 128, 32, 2
SATELLITE = {"flip_vert": True, "max_lighting": 0.1, "max_zoom": 1.05, "max_warp": 0.0}
"""Augmentation of the lessons' satellite tiles, in the words that both libraries share."""

Result = dict[str, Any]


class Clock:
    """Seconds since training began, at the end of each epoch's training and validation."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.timeline: list[tuple[float, float]] = []
        self.training: list[tuple[int, float]] = []
        self._images, self._began = 0, self.start

    def epoch_begins(self) -> None:
        """An epoch's training begins."""
        self._images, self._began = 0, time.perf_counter()

    def batch(self, images: int) -> None:
        """Some images have been trained on."""
        self._images += images

    def training_ends(self) -> None:
        """An epoch's training has ended."""
        self.training.append((self._images, time.perf_counter() - self._began))

    def epoch_ends(self, error: float) -> None:
        """An epoch's validation has ended."""
        self.timeline.append((round(time.perf_counter() - self.start, 2), round(error, 4)))

    def result(self, frozen_epochs: int) -> Result:
        """The timeline, and the median images a second of the epochs in which all layers trained."""
        rates = [images / seconds for images, seconds in self.training[frozen_epochs:]]
        return {"timeline": self.timeline, "rate": round(statistics.median(rates), 2)}


def ours(root: Path, seed: int, epochs: int) -> Result:
    """This package, with the lessons' phases."""
    import lightning.pytorch as pl

    from lightning_finetune import FineTune, ImageClassifier, Phase

    pl.seed_everything(seed, verbose=False)
    data = images(root, seed)
    phases = [Phase(epochs, "head", 3e-3, size=SIZE), Phase(epochs, "all", (1e-5, 9e-4), size=SIZE)]
    recipe = FineTune(phases, train_norm=True)
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes)
    return fit(model, data, [recipe], 2 * epochs).result(epochs)


def images(root: Path, seed: int) -> Any:
    """This package's data."""
    from lightning_finetune import ImageData
    from lightning_finetune.data.pixels.augment import Augment

    return ImageData.from_csv(
        root / "satellite",
        label_col="landuse",
        valid_col="is_valid",
        folder="images",
        augment=Augment(**SATELLITE),  # type: ignore[arg-type]
        size=SIZE,
        batch_size=BATCH,
        num_workers=WORKERS,
        seed=seed,
    )


def error_rate(metrics: Mapping[str, Any]) -> float:
    """The error of a classifier, of what it logged."""
    return float(metrics["val_error_rate"])


def fit(
    model: Any,
    data: Any,
    callbacks: list[Any],
    epochs: int,
    error: Callable[[Mapping[str, Any]], float] = error_rate,
    **options: Any,
) -> Clock:
    """A Trainer that writes nothing but what a callback must; every epoch is timed by the data it asks for."""
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    clock = Clock()

    class Timed(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            clock.start = time.perf_counter()

        def on_train_epoch_start(self, *_: Any) -> None:
            clock.epoch_begins()

        def on_before_zero_grad(self, *_: Any) -> None:
            clock.batch(BATCH)

        def on_validation_start(self, *_: Any) -> None:
            clock.training_ends()

        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            clock.epoch_ends(error(trainer.callback_metrics))

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[*callbacks, Timed()],
            **{"enable_checkpointing": False, **options},
        )
        trainer.fit(model, data)
    return clock


def fastai(root: Path, seed: int, epochs: int) -> Result:
    """Its own learner, loaders and callbacks."""
    from fastai.vision.all import Callback, error_rate, set_seed
    from quality_fastai import classifier, tiles

    set_seed(seed, reproducible=True)
    clock = Clock()

    class Timed(Callback):
        def before_train(self) -> None:
            clock.epoch_begins()

        def after_batch(self) -> None:
            if self.training:
                clock.batch(len(self.x))

        def after_train(self) -> None:
            clock.training_ends()

        def after_epoch(self) -> None:
            clock.epoch_ends(float(self.recorder.log[-1]))

    options = {"bs": BATCH, "num_workers": WORKERS, "device": "cpu"}
    learner = classifier(tiles(root, "landuse", SIZE, SATELLITE, options))
    learner.metrics.append(_metric(error_rate))
    learner.add_cb(Timed())
    clock.start = time.perf_counter()
    with learner.no_bar():
        learner.freeze()
        learner.fit_one_cycle(epochs, 3e-3)
        learner.unfreeze()
        learner.fit_one_cycle(epochs, slice(1e-5, 9e-4))
    return clock.result(epochs)


def _metric(function: Any) -> Any:
    from fastai.vision.all import mk_metric

    return mk_metric(function)


def plain_task(classes: int) -> Any:
    """A LightningModule as anybody would write it, with the same network and head."""
    import lightning.pytorch as pl
    import torch

    from lightning_finetune.tasks.networks.classifier import build_classifier

    given = {"model": "tf_efficientnet_lite0", "weights": True, "in_channels": 3, "head": "concat_pool", "dropout": 0.5}
    network = build_classifier(given, classes)

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = network.backbone, network.head
            self.normalization = network.normalization

        def forward(self, pixels: Any) -> Any:
            return self.head(self.backbone(pixels.contiguous()))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self(batch["image"]), batch["label"])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            said = self(batch["image"])
            loss = torch.nn.functional.cross_entropy(said, batch["label"])
            self.log("val_loss", loss, batch_size=len(said))  # what the scheduler's checkpoints look at
            wrong = said.argmax(1) != batch["label"]
            self.log("val_error_rate", wrong.float().mean(), batch_size=len(said))

        def configure_optimizers(self) -> Any:
            trained = [param for param in self.parameters() if param.requires_grad]
            return torch.optim.AdamW(trained, lr=3e-3, betas=(0.9, 0.99), eps=1e-5)

    return Task()


def backbone(root: Path, seed: int, epochs: int) -> Result:
    """Lightning's own callback; it adds the backbone with a tenth of the head's rate."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import BackboneFinetuning

    pl.seed_everything(seed, verbose=False)
    data = images(root, seed)
    callback = BackboneFinetuning(epochs, lambda epoch: 1.0, backbone_initial_ratio_lr=0.1)
    return fit(plain_task(data.num_classes), data, [callback], 2 * epochs).result(epochs)


def scheduler(root: Path, seed: int, epochs: int) -> Result:
    """finetuning-scheduler with an explicit schedule of two phases."""
    import lightning.pytorch as pl
    import yaml
    from finetuning_scheduler import FinetuningScheduler

    pl.seed_everything(seed, verbose=False)
    data = images(root, seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "schedule.yaml")
        phases = {
            0: {"params": ["head.*"], "max_transition_epoch": epochs},
            1: {"params": ["backbone.*"], "max_transition_epoch": 2 * epochs, "lr": 9e-4},
        }
        file.write_text(yaml.safe_dump(phases))
        callback = FinetuningScheduler(ft_schedule=str(file), epoch_transitions_only=True, restore_best=False)
        task = plain_task(data.num_classes)
        return fit(task, data, [callback], 2 * epochs, enable_checkpointing=True).result(epochs)


RUNS: dict[str, Callable[[Path, int, int], Result]] = {
    "ours": ours,
    "fastai": fastai,
    "backbone": backbone,
    "scheduler": scheduler,
}
