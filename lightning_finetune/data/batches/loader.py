"""Workers and resuming: the batches of an epoch from any place on, loaded in processes of their own."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from typing_extensions import NotRequired, override

from lightning_finetune.data.batches.dataset import Batch, BatchKey, ImageDataset
from lightning_finetune.data.batches.sampling import BatchSampler
from lightning_finetune.engine.allocator import release_freed
from lightning_finetune.errors import DataError, first_ten, gone_worker


class LoaderState(TypedDict):
    """How far a loader is: batches handed out in an epoch; in older checkpoints nothing else.

    Attributes:
        left: Batches that it had still to hand out.
        seen: Items that the loaders of all processes had handed out.
        items: Of the split.
    """

    epoch: int
    batch: int
    left: NotRequired[int]
    seen: NotRequired[int]
    items: NotRequired[int]


_SMALL = 2**14  # bytes of a tensor that is not worth a shared file of its own


class LendingLoader(ABC):
    """A loader of this package, which lends batches without disturbing those of the run."""

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    @abstractmethod
    def independent(self) -> Iterable[Batch]:
        """A loader of the same batches with workers of its own, for a range test that must not disturb this one."""

    @abstractmethod
    def one_pass(self) -> Iterable[Batch]:
        """A loader of each item once, in the order of an epoch, augmented as in it, but not mixed."""

    @abstractmethod
    def close(self) -> None:
        """End the worker processes; another iteration starts new ones."""


class ImageLoader(LendingLoader):
    """Loads the batches that its sampler asks for, in worker processes.

    Not a ``DataLoader``, because Lightning calls ``iter`` on its loader before it sets the epoch, and a DataLoader
    with workers would then prefetch the wrong one: here all is read at the first ``next``. Its state makes a run that
    was stopped within an epoch continue with the next unseen batch.

    Args:
        images: Of the split.
        sampler: Of its batches.
        num_workers: Processes that load.
        pin_memory: For a faster way to a GPU.
    """

    def __init__(self, images: ImageDataset, sampler: BatchSampler, *, num_workers: int, pin_memory: bool) -> None:
        self.images = images
        self.sampler = sampler
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._loader: DataLoader[Any] | None = None
        self._workers: Iterator[Any] = iter(())
        self._state = LoaderState(epoch=0, batch=0)
        self._resume: LoaderState | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the sampler's epoch."""
        resume, self._resume = self._resume, None
        first = self._seen(resume) if resume is not None and resume["epoch"] == self.sampler.epoch else 0
        self.sampler.seen = first
        self._state = self._place(first, 0)
        if self._loader is None:
            self._loader = self._with_workers()
        here, count = None if self.num_workers else iter(self._loader), 0
        if here is None:
            self._workers = iter(self._loader)  # and no other name of it, which would outlive `close`
        while (batch := _next(self._workers if here is None else here)) is not None:
            if isinstance(batch, DataError):
                raise _of_today(self.images, batch) from batch
            count += 1
            self._state = self._place(first, count)
            yield _unpacked(batch)

    def _with_workers(self) -> DataLoader[Any]:
        """A loader whose workers stay until :meth:`close`; they begin with its first iteration."""
        if self.num_workers:
            release_freed()
        return DataLoader(
            _Answering(self.images),
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=partial(_packed, small=0 if self.pin_memory else _SMALL),
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # else each iteration takes a number from the generator that dropout uses
        )

    def state_dict(self) -> LoaderState:
        """The epoch and the number of its batches handed out."""
        return self._resume or self._state

    def load_state_dict(self, state: LoaderState) -> None:
        """The next iteration, if it is of the same epoch, begins after the items that were seen at ``state``."""
        self._resume = state.copy()

    def behind(self, before: int) -> int | None:
        """How many of its batches lie behind the loaded state, whatever batch size and processes that had.

        Args:
            before: Batches of an epoch at that time.

        Returns:
            None where the epoch had other items, or not all of them.
        """
        state = self.state_dict()
        same = state.get("items") == self.sampler.items and state["batch"] + state.get("left", 0) == before
        return len(self) - self.sampler.left(self._seen(state)) if same else None

    def _seen(self, state: LoaderState) -> int:
        """How many items all processes had seen at ``state``; none of a new epoch where that was the end of one."""
        if state.get("left", len(self) - state["batch"]) <= 0:
            return 0
        seen = state.get("seen", state["batch"] * self.sampler.together)
        return min(seen, self.sampler.items - self.sampler.world_size)  # so that each process gets one

    def _place(self, first: int, count: int) -> LoaderState:
        """The state after ``count`` batches from item ``first`` on."""
        sampler, left = self.sampler, self.sampler.left(first) - count
        seen = min(sampler.items, first + count * sampler.together)
        return LoaderState(epoch=sampler.epoch, batch=len(self) - left, left=left, seen=seen, items=sampler.items)

    @override
    def independent(self) -> ImageLoader:
        return self._sibling(self.images, copy.copy(self.sampler))

    @override
    def one_pass(self) -> ImageLoader:
        sampler = copy.copy(self.sampler)
        sampler.train = False
        return self._sibling(self.images.unmixed(), sampler)

    def _sibling(self, images: ImageDataset, sampler: BatchSampler) -> ImageLoader:
        sampler.seen = 0
        return ImageLoader(images, sampler, num_workers=self.num_workers, pin_memory=self.pin_memory)

    def close(self) -> None:
        """End the worker processes, and give back the memory of decoded images; another iteration starts new ones.

        They end as the last name of what holds them goes. Left to the garbage collector, they would be sent their end
        after their queues are closed, and each be waited for in vain for five seconds.
        """
        self._loader, self._workers = None, iter(())
        self.images.forget_decoded()


class _Answering(Dataset[Batch | DataError]):
    """Images that answer with an error of theirs, of which a worker that raises it would make a traceback.

    Args:
        images: They.
    """

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> Batch | DataError:
        try:
            return self.images[key]
        except DataError as error:
            return error


def _of_today(images: ImageDataset, error: DataError) -> DataError:
    """The error of all files that are gone, where one was read before and cannot be read now."""
    gone = images.gone()
    if not gone:
        return error
    return DataError(
        f"Expected the images that were there when the run began; {len(gone)} are gone:{first_ten(gone)}\n"
        "Put them back, and resume from the last checkpoint."
    )


def _next(batches: Iterator[Any]) -> Any:
    """The next batch, or None after the last.

    Raises:
        DataError: A worker process was killed.
    """
    try:
        return next(batches, None)
    except RuntimeError as error:
        if (text := gone_worker(error)) is None:
            raise
        raise DataError(text) from error


def _packed(batch: Any, small: int) -> dict[str, Tensor | npt.NDArray[Any]] | DataError:
    """In a worker: what is small as an array, which is part of the message, where a tensor takes a handshake.

    Args:
        batch: Of the data set.
        small: Bytes up to which that is done; none where a thread receives and pins tensors: nobody waits for it, and
            an array would not be pinned.
    """
    if isinstance(batch, DataError):
        return batch
    if get_worker_info() is None:
        return dict(batch)
    return {name: _sent(value, small) for name, value in batch.items()}


def _sent(value: Any, small: int) -> Any:
    """A tensor in memory that processes share; an array where that is full, as of a container with 64 MB of it.

    The tensor is shared here, because a failure while it is sent would be nobody's: the run would wait for ever.
    """
    if not isinstance(value, Tensor):
        return value
    if value.nbytes <= small and value.is_contiguous():
        return value.numpy()
    try:
        value.share_memory_()  # type: ignore[no-untyped-call]
        return value
    except RuntimeError:
        return value.numpy()


def _unpacked(batch: dict[str, Tensor | npt.NDArray[Any]]) -> Batch:
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}
