"""The loaders of a run, whoever made them: the order that they give an epoch in, and how they go on within one.

A loader with ``state_dict`` and ``load_state_dict`` goes on by itself. Any other begins the epoch again, in the order
that it had, and is led past the batches that the run has seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_finetune.engine.nested import leaves
from lightning_finetune.engine.snapshot import random_state, set_random_state
from lightning_finetune.run.trainer import begins_resumed, data_fetcher, seen_batches

_UNTRUE = "You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable"
"""What Lightning says of every loader without ``state_dict``."""


class LoaderOrder:
    """Which order the loaders give the epochs of a run in.

    It follows from the state of torch's generator when the epoch begins, which the run seeds, or from that of a
    generator of the loader's own, which is kept in checkpoints: as it was when the epoch began, and as it is.
    """

    def __init__(self) -> None:
        self._generators: list[torch.Generator] = []
        self._begun: list[Tensor] | None = None
        self._loaded: dict[str, list[Tensor] | None] = {}

    def begin(self, trainer: pl.Trainer) -> None:
        """An epoch begins; after a resume its loaders are begun anew.

        Lightning makes the first iterator before it tells the sampler the epoch, so a resumed run would see the order
        of epoch 0.
        """
        self._generators = _own_generators(trainer)
        resumed = begins_resumed(trainer)
        if resumed:
            self._set("now")
        if trainer.current_epoch > 0:
            self._begun = self._states()
        if resumed:
            fetcher = data_fetcher(trainer)
            iter(fetcher)
            fetcher.iterator = _FetchesAsNow(fetcher.iterator)

    def go_on(self, trainer: pl.Trainer, seed: Callable[[int], None]) -> None:
        """After a resume within an epoch, lead the loaders past the batches that the run has seen.

        Args:
            trainer: Of a fit that has begun.
            seed: Puts the random generators into the state in which the batch of that number is fetched.
        """
        seen, loaders = seen_batches(trainer), leaves(trainer.train_dataloader)
        if not seen or any(hasattr(loader, "load_state_dict") for loader in loaders):
            return
        self._generators = _own_generators(trainer)
        for loader in loaders:
            _set_epoch(loader, trainer.current_epoch)
        seed(0)
        if trainer.current_epoch > 0:  # of the first epoch the order was made as in the run that was stopped
            self._set("begun")
            self._begun = self._states()
            iter(data_fetcher(trainer))
        rank_zero_info(f"Loading the {seen} batches of epoch {trainer.current_epoch + 1} again that the run has seen.")
        warnings.filterwarnings("ignore", _UNTRUE)
        fetcher = data_fetcher(trainer)
        for batch in range(seen):
            if batch:
                seed(batch)
            next(fetcher if fetcher.length is None else fetcher.iterator, None)
        seed(seen)
        fetcher.iterator = _FetchesAsNow(fetcher.iterator)

    def state_dict(self) -> dict[str, list[Tensor] | None]:
        """States of generators of the loaders' own."""
        return {"begun": self._begun, "now": self._states()}

    def load_state_dict(self, state: dict[str, list[Tensor] | None]) -> None:
        """Used when the fit goes on."""
        self._loaded = state

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set(self, moment: str) -> None:
        states = self._loaded.get(moment) or []
        if len(states) == len(self._generators):
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)
        self._loaded = {}


class _FetchesAsNow:
    """An iterator whose first item is fetched in the random state of now, whatever draws in between.

    After a resume Lightning may make iterators of the validation's loaders, and those draw.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator, self.state = iterator, random_state()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.state:
            set_random_state(self.state)
            self.state = {}
        return next(self.iterator)


def _own_generators(trainer: pl.Trainer) -> list[torch.Generator]:
    """Those that loaders and samplers were given, each once."""
    generators: dict[int, torch.Generator] = {}
    for loader in leaves(trainer.train_dataloader):
        if isinstance(loader, DataLoader):
            batches = loader.batch_sampler
            for owner in (loader, loader.sampler, batches, getattr(batches, "sampler", None)):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator):
                    generators[id(generator)] = generator
    return list(generators.values())


def _set_epoch(loader: Any, epoch: int) -> None:
    """As Lightning does when an epoch begins, and not when one goes on."""
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), getattr(batches, "sampler", None), batches):
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
