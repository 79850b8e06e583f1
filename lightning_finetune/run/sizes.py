"""How the training images of a run get another size."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn import Parameter

from lightning_finetune.data.batches.pixel_module import PixelModule
from lightning_finetune.engine.freezing import all_trainable
from lightning_finetune.engine.resize import Size, check_min_size, snap, target_size
from lightning_finetune.engine.resize_batch import resize_batch
from lightning_finetune.errors import FinetuneError, PhaseError
from lightning_finetune.run.range_test_loop import try_step
from lightning_finetune.run.trainer import register_trainable

_ONE_IMAGE = (
    "Batch norm learns from several values per channel, and here it gets one, of one image: take batches of at least 2 "
    "(with drop_last=True if the last is smaller), or larger images."
)


class Resizer:
    """Sets the size of the training images: in the data module's workers if it is ours, else of batches on the device.

    Args:
        trainer: Of a fit that has begun.
        module: Its module.
        min_size: Smallest side that is not an error.
        sizes: All of the run.

    Attributes:
        untried: Those at which no step was made yet.
    """

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, min_size: int, sizes: Iterable[int | Size]
    ) -> None:
        data = getattr(trainer, "datamodule", None)
        self.data = data if isinstance(data, PixelModule) else None
        self.module = module
        self.min_size = min_size
        self.untried = set(sizes)
        self.size: Size | None = None
        if self.data is None:
            self._wrap()

    def resolve(self, size: int | Size) -> Size:
        """Height and width that ``size`` means for this data; says so where it had to be snapped."""
        check_min_size(size, self.min_size)
        resolved = target_size(size, None if self.data is None else self.data.size)
        if size != resolved and size not in resolved:
            rank_zero_warn(f"Training size {size} is snapped to {resolved}: models need multiples of 32 pixels.")
        return resolved

    def set(self, size: int | Size) -> None:
        """Train at ``size`` from the next epoch's first batch on."""
        self._use(self.resolve(size))

    def _use(self, size: Size) -> None:
        self.size = size
        if self.data is not None:
            self.data.train_size = self.size

    def dry_run(self, trainer: pl.Trainer, layers: Sequence[Sequence[Parameter]], batch: Any = None) -> None:
        """One training step at each size that is untried, the largest first, with everything put back.

        Args:
            trainer: Of the fit.
            layers: All that may train; all of it does, as memory is needed then.
            batch: Of the run, where its loaders lend none.

        Raises:
            PhaseError: The model fails at a size; names it and the model's own message.
        """
        sizes, self.untried = self.untried, set()
        with all_trainable(layers) as changed:
            if changed:
                register_trainable(trainer, self.module)
            self._try_each({self.resolve(size) for size in sizes}, trainer, batch)
        if changed:
            register_trainable(trainer, self.module)

    def _try_each(self, sizes: Iterable[Size], trainer: pl.Trainer, batch: Any) -> None:
        for size in sorted(sizes, reverse=True):
            self._use(size)
            if (error := self._failure(trainer, batch)) is not None:
                said = str(error).strip().partition("\n")[0]
                raise PhaseError(
                    f"{type(self.module).__name__} cannot train at {size[0]} x {size[1]} pixels: "
                    f"{type(error).__name__}: {said} {self._way_out(trainer, size, said, batch)}"
                ) from error

    def _failure(self, trainer: pl.Trainer, batch: Any) -> Exception | None:
        """What a step at the present size fails with, if that can have to do with the size."""
        try:
            try_step(trainer, self.module, batch)
        except FinetuneError:
            raise  # says itself what is wrong
        except Exception as error:
            if "DataLoader worker" in str(error):
                raise
            return error
        return None

    def _way_out(self, trainer: pl.Trainer, size: Size, said: str, batch: Any) -> str:
        """What it takes after a failure at ``size``: other batches, other images, or another model."""
        if "more than 1 value per channel" in said:
            return _ONE_IMAGE
        if "memory" in said.lower():
            return "Take smaller batches, or leave that size out."
        own = None if self.data is None else self.data.size
        self.size = None
        if own is not None:
            self._use(own)
        if own == size or self._failure(trainer, batch) is not None:
            hint = "" if own is None or snap(own) == own else ", such as {} x {}".format(*snap(own))
            return f"It cannot at the data's own size either: give one that the model takes{hint}, or mend that."
        return "It can at the data's own size: leave that size out, or use a model that takes any."

    def release(self) -> None:
        """Leave module and data as they were found."""
        if self.data is not None:
            self.data.train_size = self.data.size
        elif self._own_step is not None:
            vars(self.module)["training_step"] = self._own_step
        else:
            vars(self.module).pop("training_step", None)

    def _wrap(self) -> None:
        """Resize within ``training_step``: a callback can change a batch only in place, and a tuple not at all."""
        self._own_step = vars(self.module).get("training_step")  # there if `torch.compile` made one
        step = self.module.training_step

        @functools.wraps(step)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            return step(batch if self.size is None else resize_batch(batch, self.size), *args, **kwargs)

        vars(self.module)["training_step"] = training_step
