"""Order and sharding of batches, a function of (seed, epoch, rank)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from lightning_finetune.data.batches.dataset import BatchKey
from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.data.pixels.draws import Ints, permutation
from lightning_finetune.errors import DataError


class BatchSampler(Sampler[BatchKey]):
    """The keys of this process's batches.

    Training: one permutation of all items an epoch; the k-th batches of all processes together are the k-th batch of a
    single process with ``world_size`` times the batch; what is left over is dropped, unless nothing else is there.
    Otherwise: every item once over all processes, in order, and the same number of batches on each process, because
    DDP's collectives would wait for ever for a missing one.

    Args:
        items: Number of items in the split.
        batch_size: Items a batch and process.
        size: Asked for the image size when an epoch begins.
        train: Drop what is left over.
        shuffle: Draw another order each epoch.
        seed: Of the order.
        world_size: Number of processes.
        rank: Of this process.

    Raises:
        DataError: There are fewer items than processes.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        size: Callable[[], Size],
        *,
        train: bool,
        shuffle: bool,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        if items < world_size:
            raise DataError(
                f"Expected at least one image for each of the {world_size} processes, got {items}. "
                "Use fewer devices or more images."
            )
        self.items, self.batch_size, self.size = items, batch_size, size
        self.train, self.shuffle, self.seed = train, shuffle, seed
        self.world_size, self.rank = world_size, rank
        self.epoch = 0
        self.seen = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        share = self.items / self.world_size
        if self.train:
            return max(1, int(share // self.batch_size))
        return min(int(-(-share // self.batch_size)), self.items // self.world_size)

    @property
    def together(self) -> int:
        """Items of a batch of all processes."""
        return self.batch_size * self.world_size

    def left(self, seen: int) -> int:
        """How many training batches there are after ``seen`` items: one at least, be it smaller."""
        return len(self) if seen == 0 else max(1, (self.items - seen) // self.together)

    def __iter__(self) -> Iterator[BatchKey]:
        """Keys of an epoch after its first ``seen`` items."""
        size = self.size()
        for items in self.batches():
            yield BatchKey(items, self.epoch, size)

    def batches(self) -> list[Ints]:
        """The items of each batch of this process in this epoch."""
        if self.train:
            return self._train_batches()
        mine = self._order()[self.rank :: self.world_size]
        return np.split(mine, self._cuts(len(mine)))

    def _train_batches(self) -> list[Ints]:
        order, together = self._order()[self.seen :], self.together
        chunks = [order[k * together : (k + 1) * together] for k in range(self.left(self.seen))]
        return [chunk[self.rank :: self.world_size] for chunk in chunks]

    def _order(self) -> Ints:
        return permutation(self.seed, self.epoch, self.items) if self.shuffle else np.arange(self.items)

    def _cuts(self, count: int) -> list[int]:
        """Where to cut ``count`` items: full batches as long as at least one item is left for each later batch."""
        number = len(self)
        return [min(k * self.batch_size, count - (number - k)) for k in range(1, number)]
