"""How the frozen layers of a phase are run once for each image, and their outputs used again."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.batches.dataset import Batch
from lightning_finetune.data.batches.loader import Features, ImageLoader
from lightning_finetune.engine.feature_cache import (
    IN_MEMORY,
    FeatureCache,
    bytes_of_one,
    used_tensors,
    why_not_reusable,
)
from lightning_finetune.run.range_test_loop import training_loss, undisturbed
from lightning_finetune.run.trainer import reseed, to_device


class FeatureReuse:
    """Serves the epochs of a phase in which the layers before the head are frozen.

    A loader asks when its epoch begins, and so after every hook, and in the range test too, whether something takes the
    place of its pixels. Training images are run all at once, at the batch size of training, because the last bits of an
    output depend on it; what validation computes in its first epoch is kept as it comes. Before each epoch the layers
    are compared with those that gave the outputs, so that whoever changes them (an average of weights, say) is noticed.

    Args:
        trainer: At the start of the phase.
        module: Its module.
        owner: Whose ``forward_features`` is run once.
        first_epoch: Of the phase.
        views: How many augmented versions of each training image are kept; 0: training images are run each time.
        say: Tells the user what was done, and why not.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        owner: Any,
        *,
        first_epoch: int,
        views: int,
        say: Callable[[str], None],
    ) -> None:
        self.trainer, self.module, self.owner = trainer, module, owner
        self.first_epoch, self.views, self.say = first_epoch, views, say
        self._run = owner.forward_features
        self._train: FeatureCache | None = None
        self._valid: FeatureCache | None = None
        self._validates = True
        self._recorded = 0
        self._given: Any = None
        self._recording: Batch | None = None
        vars(owner)["forward_features"] = self._features
        for step in ("training_step", "validation_step"):
            self._wrap(step)

    def release(self) -> None:
        """Leave module and loaders as they were found."""
        vars(self.owner).pop("forward_features")
        for step in ("training_step", "validation_step"):
            vars(self.module).pop(step)
        for loader in (self.trainer.train_dataloader, self.trainer.val_dataloaders):
            if isinstance(loader, ImageLoader):
                loader.features = None

    def serve(self) -> None:
        """Let the loaders of now ask; at the start of each epoch of training and of validation."""
        if self.views and isinstance(self.trainer.train_dataloader, ImageLoader):
            self.trainer.train_dataloader.features = self._of_training
        if isinstance(self.trainer.val_dataloaders, ImageLoader):
            self.trainer.val_dataloaders.features = self._of_validation

    # -- training ------------------------------------------------------------------------------------------------------

    def _of_training(self) -> Features | None:
        if not self.views:
            return None
        view = (self.trainer.current_epoch - self.first_epoch) % self.views
        if self._train is None or not self._train.is_current():
            self._train = FeatureCache(len(self._loader.images), self.views, folder=self._folder)
        if not self._train.has(view):
            self._fill(self._train, view)
        return functools.partial(self._train.read, view) if self.views else None

    @property
    def _loader(self) -> ImageLoader:
        loader: Any = self.trainer.train_dataloader
        return cast(ImageLoader, loader)

    @property
    def _folder(self) -> Path:
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _fill(self, cache: FeatureCache, view: int) -> None:
        """Run the training images once; each process its share, and all keep all."""
        together = torch.from_numpy(self._loader.sampler.covered()).flatten(1)
        batches = self._loader.covering(self.first_epoch + view)
        for rows, batch in zip(together, batches, strict=True):
            batch = to_device(self.trainer, self.module, batch)
            if not cache.nbytes and not self._begins(cache, batch):
                return
            cache.write(view, rows, tree_map(self._of_all, self._run_frozen(batch)))
        if view == 0:
            where = f"a file in {self._folder}" if cache.is_on_disk else "memory"
            views = f" in {self.views} views" if self.views > 1 else ""
            self.say(
                f"runs its frozen layers once for each of {len(self._loader.images)} training images{views}; what they "
                f"give is kept ({cache.nbytes / 1e6:.1f} MB in {where})"
            )

    def _begins(self, cache: FeatureCache, batch: Batch) -> bool:
        """Whether outputs can stand for images, by a first batch of them; else says why not."""
        if why := self._why_not(batch):
            self.views = 0
            self.say(f"runs its frozen layers on training images in every epoch: {why}")
            return False
        with used_tensors(self.owner) as tensors:
            self._run_frozen(batch)
        cache.watch(tensors)
        return True

    def _run_frozen(self, batch: Batch) -> Batch:
        with torch.no_grad(), self.trainer.precision_plugin.train_step_context():
            return _outputs(batch, batch["image"], self._run(batch["image"]))

    def _of_all(self, leaf: Any) -> Any:
        """The outputs of all processes, in the order of their ranks."""
        if leaf is None or self.trainer.world_size == 1:
            return leaf
        gathered: Tensor = self.trainer.strategy.all_gather(leaf)
        return gathered.flatten(0, 1)

    def _why_not(self, batch: Batch) -> str | None:
        """Why outputs cannot stand for the images; the same on all processes."""
        with undisturbed(self.trainer, self.module, self.trainer.optimizers[0]):
            outputs = self._run_frozen(batch)
            why = self._no_room(outputs) or self._not_exact(batch, outputs)
        fits = self.trainer.strategy.reduce_boolean_decision(why is None, all=True)
        return None if fits else why or "another process cannot reuse them"

    def _no_room(self, outputs: Batch) -> str | None:
        needed = bytes_of_one(outputs) * len(self._loader.images) * self.views
        free = shutil.disk_usage(self._folder).free
        if needed <= max(free, IN_MEMORY):
            return None
        return f"their outputs take {needed / 1e9:.1f} GB, and {self._folder} has {free / 1e9:.1f} GB free"

    def _not_exact(self, batch: Batch, outputs: Batch) -> str | None:
        """By trying: run the layers again, and a step with and without the pixels, which must have the same loss."""
        module, given = self.module, {**batch, **outputs}
        with self.trainer.precision_plugin.train_step_context():
            if why := why_not_reusable(self._run, batch["image"], self.owner):
                return why
            reseed(module.device, 0)
            seen = training_loss(module, batch)
            reseed(module.device, 0)
            unseen = training_loss(module, self._data.on_after_batch_transfer(given, 0))
        if seen is not None and unseen is not None and torch.equal(seen, unseen):
            return None
        return f"`training_step` of {type(module).__name__} sees more of images than `forward_features` gives"

    @property
    def _data(self) -> ImageDataModule:
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        return data

    # -- validation ----------------------------------------------------------------------------------------------------

    def _of_validation(self) -> Features | None:
        if not self._validates:
            return None
        complete = self._recorded >= sum(self.trainer.num_val_batches)
        if self._valid is not None and complete and self._valid.is_current():
            return functools.partial(self._valid.read, 0)
        loader: Any = self.trainer.val_dataloaders
        self._valid, self._recorded = FeatureCache(len(loader.images), folder=self._folder), 0
        return None

    def _record(self, cache: FeatureCache, batch: Batch, images: Tensor) -> Any:
        """Run the layers and keep what they give."""
        with used_tensors(self.owner) as tensors:
            features = self._run(images)
        if not self._recorded:
            self._validates = not any(tensor.requires_grad for tensor in tensors)
            cache.watch(tensors)
        cache.write(0, batch["index"], _outputs(batch, images, features))
        self._recorded += 1
        return features

    # -- within a step -------------------------------------------------------------------------------------------------

    def _wrap(self, name: str) -> None:
        step = getattr(self.module, name)

        @functools.wraps(step)
        def wrapped(batch: Any, *args: Any, **kwargs: Any) -> Any:
            self._given = batch.get("features")
            self._recording = batch if name == "validation_step" and self._given is None else None
            try:
                return step(batch, *args, **kwargs)
            finally:
                self._given = self._recording = None

        vars(self.module)[name] = wrapped

    def _features(self, images: Tensor) -> Any:
        """Stands in for ``forward_features``: outside of a step it runs the layers."""
        if self._given is not None:
            return tree_map(lambda leaf: images if leaf is None else leaf, self._given)
        if self._recording is not None and self._valid is not None:
            return self._record(self._valid, self._recording, images)
        return self._run(images)


def _outputs(batch: Batch, images: Tensor, features: Any) -> Batch:
    """What takes the place of a batch's pixels; None stands for its images themselves."""
    outputs: Batch = {"features": tree_map(lambda leaf: None if leaf is images else leaf, features)}
    return {**outputs, "mask": batch["mask"].short()} if "mask" in batch else outputs
