"""Batches of a stream by the loader of its own library: LitData's, or torchdata's for any other."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_finetune.data.batches.dataset import Batch, BatchKey, Place, places, plans
from lightning_finetune.data.batches.loader import LendingLoader
from lightning_finetune.data.block.rows import pair_of
from lightning_finetune.data.pixels.augment import turned
from lightning_finetune.data.pixels.decode import Pixels, Resize, Size, decoded_image, image_pixels, mask_pixels
from lightning_finetune.data.pixels.mix import Mixer
from lightning_finetune.data.pixels.transforms import Augmenter
from lightning_finetune.engine.allocator import release_freed
from lightning_finetune.errors import DataError

log = logging.getLogger(__name__)


@dataclass
class StreamBatch:
    """Makes the batch of rows (image, target), as :class:`~lightning_finetune.data.batches.dataset.ImageDataset` does.

    A row of a stream has no position, from which its crop and augmentation could be drawn: they are drawn from its
    pixels, so that workers, processes and restarts change nothing.

    Args:
        kind: Of the targets: ``"single"``, ``"multi"``, ``"number"`` or ``"mask"``.
        resize: How an image gets its size.
        seed: Of crops and augmentation.
        augment: Of training images; None for others.
        mix: Of training images.
        channels: Of an image.
        white: The value that is white in images of more than 8 bits.
        size: Height and width.
        epoch: Whose draws.
    """

    kind: str
    resize: Resize
    seed: int
    augment: Augmenter | None
    mix: Mixer | None
    channels: int
    white: float | None
    size: Size = (0, 0)
    epoch: int = 0

    def __call__(self, rows: Sequence[Any]) -> Batch:
        """uint8 images ``[B, channels, h, w]``, targets and the plan of augmentation."""
        pairs = [pair_of(row) for row in rows]
        decoded = [decoded_image(image, self.size, self.channels, self.white) for image, _ in pairs]
        key = BatchKey(np.array([crc32(image[::4, ::4].tobytes()) for image in decoded]), self.epoch, self.size)
        placed = places(self.augment, self.seed, key)
        pixels = [self._seen(image, place) for image, place in zip(decoded, placed, strict=True)]
        batch = {"image": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)}
        batch |= self._targets([target for _, target in pairs], placed)
        return batch | plans(self.augment, self.mix, self.seed, key)

    def _seen(self, image: Pixels, place: Place) -> Pixels:
        return turned(image_pixels(image, self.size, self.resize, place.crop, self.channels), place.symmetry)

    def _targets(self, targets: Sequence[Any], placed: Sequence[Place]) -> dict[str, Tensor]:
        """Under the key of their kind."""
        if self.kind != "mask":
            dtype = torch.int64 if self.kind == "single" else torch.float32
            values = torch.from_numpy(np.stack([np.asarray(target) for target in targets])).to(dtype)
            return {"label": values}
        masks = zip(targets, placed, strict=True)
        seen = [turned(mask_pixels(mask, self.size, self.resize, place.crop), place.symmetry) for mask, place in masks]
        return {"mask": torch.from_numpy(np.stack(seen))}


class StreamState(TypedDict):
    """How far a loader is: the epoch, and what the library says of its place in it."""

    epoch: int
    place: dict[str, Any]


class StreamLoader(LendingLoader):
    """Loads the batches of a stream, each epoch by a new loader of the stream's own library.

    That library shuffles, shares rows among processes and workers, and knows its place. As in
    :class:`~lightning_finetune.data.batches.loader.ImageLoader` nothing is read before the first ``next``, when epoch
    and size are known.

    Args:
        stream: An iterable dataset of rows, as this process shall see it.
        batch: From rows to a batch, in the workers.
        size: Asked for the image size when an epoch begins.
        batch_size: Rows a batch and process.
        num_workers: Processes that load.
        pin_memory: For a faster way to a GPU.
        world_size: Number of processes.
        agree: Whether all processes say yes; they wait for each other.
    """

    def __init__(
        self,
        stream: Any,
        batch: StreamBatch,
        size: Callable[[], Size],
        *,
        batch_size: int,
        num_workers: int,
        pin_memory: bool,
        world_size: int = 1,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        self.stream, self.batch, self.size = stream, batch, size
        self.batch_size, self.num_workers, self.pin_memory = batch_size, num_workers, pin_memory
        self.world_size, self.agree = world_size, agree
        self.epoch = 0
        self._begun = StreamState(epoch=0, place={})
        self._resume: StreamState | None = None
        self._loader: Any = None
        self._batches: Iterator[Batch] = iter(())

    @property
    def sampler(self) -> StreamLoader:
        """What Lightning tells the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch.

        Raises:
            TypeError: The stream does not say its length.
        """
        if of_litdata(self.stream):
            return len(self._begin_loader())
        return math.ceil(len(self.stream) / self.world_size / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the epoch, until the first of the processes has no more."""
        resume, self._resume = self._resume, None
        self._begun = StreamState(epoch=self.epoch, place={})
        if resume is not None and resume["epoch"] == self.epoch:
            self._begun = resume
        self.batch.epoch, self.batch.size = self.epoch, self.size()
        self._loader = self._begin_loader()
        if self._begun["place"]:
            self._loader.load_state_dict(self._begun["place"])
        self._batches = iter(self._loader)
        count = 0
        while (batch := self._next(count)) is not None:
            count += 1
            yield batch

    def _next(self, count: int) -> Batch | None:
        batch = next(self._batches, None)
        if self.world_size == 1 or self.agree(batch is not None):
            return batch
        if batch is not None:
            log.warning(
                "The stream of another process ended after %d batches, and this one's has more, which are left out: "
                "make shards of one length, as many for each process.",
                count,
            )
        return None

    def _begin_loader(self) -> Any:
        settings = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": self.batch,
            "pin_memory": self.pin_memory,
            "generator": torch.Generator(),  # else each iteration takes a number from the one that dropout uses
        }
        if self.num_workers:
            release_freed()
        stream = copy.deepcopy(self.stream)  # which keeps its place, and that of a state that it was given, for good
        _begin_epoch(stream, self.epoch)
        if of_litdata(stream):
            from litdata import StreamingDataLoader

            loader = StreamingDataLoader(stream, **settings)
            loader.current_epoch = self.epoch
            return loader
        try:
            from torchdata.stateful_dataloader import StatefulDataLoader
        except ImportError as error:
            raise DataError(
                "Streams need torchdata, whose loader knows its place in them: pip install lightning-finetune[streams]"
            ) from error
        return StatefulDataLoader(stream, **settings)

    def state_dict(self) -> StreamState:
        """The epoch, and the place in it by the library's own account."""
        if self._resume is not None or self._loader is None:
            return self._resume or self._begun
        return StreamState(epoch=self.batch.epoch, place=self._loader.state_dict())

    def load_state_dict(self, state: StreamState) -> None:
        """The next iteration, if it is of the same epoch, goes on at the place of ``state``."""
        self._resume = StreamState(epoch=int(state["epoch"]), place=state["place"])

    def rewind(self) -> None:
        """The next iteration begins with the epoch, whatever was read of it."""
        self._resume = StreamState(epoch=self.epoch, place={})

    @override
    def independent(self) -> StreamLoader:
        return self._sibling(self.batch)

    @override
    def one_pass(self) -> StreamLoader:
        return self._sibling(replace(self.batch, mix=None))

    def _sibling(self, batch: StreamBatch) -> StreamLoader:
        sibling = copy.copy(self)
        sibling.batch = copy.copy(batch)
        sibling._loader, sibling._batches, sibling._resume = None, iter(()), None
        return sibling

    @override
    def close(self) -> None:
        self._loader, self._batches = None, iter(())


def of_litdata(stream: Any) -> bool:
    """Whether a stream, or a loader, is of LitData."""
    return any(kind.__module__.startswith("litdata.") for kind in type(stream).__mro__)


def _begin_epoch(stream: Any, epoch: int) -> None:
    """Tell a stream, or the stages of WebDataset's pipeline, whose order is asked for."""
    if hasattr(stream, "set_epoch"):
        stream.set_epoch(epoch)
    for stage in getattr(stream, "pipeline", ()):
        if hasattr(stage, "epoch"):
            stage.epoch = epoch - 1  # it counts when it begins
