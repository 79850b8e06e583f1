"""The loaders of a run, whoever made them: the order that they give an epoch in, and how they go on within one.

A loader with ``state_dict`` and ``load_state_dict`` goes on by itself, each process's at its own place. Any other
begins the epoch again, in the order that it had, and is led past the batches that the run has seen.
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

from lightning_finetune.data.batches.loader import ImageLoader
from lightning_finetune.data.batches.stream_loader import StreamLoader, of_litdata
from lightning_finetune.engine.nested import leaves
from lightning_finetune.engine.processes import gathered
from lightning_finetune.engine.snapshot import random_state, set_random_state
from lightning_finetune.run.trainer import before_each_batch, begins_resumed, data_fetcher, seen_batches

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
        self._loaded: dict[str, Any] = {}
        self._trainer: pl.Trainer | None = None
        self._fetcher: Any = None
        self._places: list[Any] = []

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
        for loader in leaves(trainer.train_dataloader):
            _set_epoch(loader, trainer.current_epoch)
            if not resumed and of_litdata(loader):
                loader.restore = False  # which it forgets at its end alone, that is never asked for
        if trainer.current_epoch == 0 and not resumed:
            self._rewind(trainer)
        elif resumed:
            fetcher = data_fetcher(trainer)
            iter(fetcher)
            fetcher.iterator = _FetchesAsNow(fetcher.iterator)
        self._note_places(trainer)

    def go_on(self, trainer: pl.Trainer, seed: Callable[[int], None]) -> None:
        """After a resume within an epoch, lead the loaders past the batches that the run has seen.

        Args:
            trainer: Of a fit that has begun.
            seed: Puts the random generators into the state in which the batch of that number is fetched.
        """
        seen, loaders = seen_batches(trainer), leaves(trainer.train_dataloader)
        if not seen:
            return
        for loader in loaders:
            _set_epoch(loader, trainer.current_epoch)
        if _stateful(trainer):
            self._go_to_places(trainer, seed, seen)
            return
        if any(hasattr(loader, "load_state_dict") for loader in loaders):
            return
        self._generators = _own_generators(trainer)
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

    def _rewind(self, trainer: pl.Trainer) -> None:
        """Begin streams of ours again, of which Lightning fetched the first batch before its size was known."""
        streams = [loader for loader in leaves(trainer.train_dataloader) if isinstance(loader, StreamLoader)]
        for stream in streams:
            stream.rewind()
        if streams and data_fetcher(trainer).length is None:
            iter(data_fetcher(trainer))

    def _go_to_places(self, trainer: pl.Trainer, seed: Callable[[int], None], seen: int) -> None:
        """Lead each loader to where that of this process was; Lightning keeps the place of the first one alone."""
        places = self._loaded.get("places") or []
        if not places:
            return
        fetcher = data_fetcher(trainer)
        for loader, place in zip(_stateful(trainer), places[trainer.global_rank], strict=True):
            loader.load_state_dict(place)
        seed(seen - 1 if fetcher.length is None else seen)  # without a length a batch is fetched before its time
        iter(fetcher)
        self._note_places(trainer)

    def _note_places(self, trainer: pl.Trainer) -> None:
        """Of data without a length, know from now on where loaders were before Lightning fetched a batch ahead."""
        self._trainer, fetcher = trainer, data_fetcher(trainer)
        if fetcher is not self._fetcher and fetcher.length is None and _stateful(trainer):
            self._fetcher = fetcher
            before_each_batch(trainer, self._note)

    def _note(self) -> None:
        self._places = [] if self._trainer is None else [loader.state_dict() for loader in _stateful(self._trainer)]

    def _places_of_all(self) -> list[list[Any]]:
        """For each process the places of its loaders, after the batches that the run has seen."""
        trainer = self._trainer
        if trainer is None or not (loaders := _stateful(trainer)):
            return []
        fetcher = data_fetcher(trainer)
        ahead = fetcher is not None and fetcher.length is None and not fetcher.done
        return gathered(self._places if ahead else [loader.state_dict() for loader in loaders])

    def state_dict(self) -> dict[str, Any]:
        """States of generators of the loaders' own, and the places of loaders that know theirs."""
        return {"begun": self._begun, "now": self._states(), "places": self._places_of_all()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
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


def knows_items(trainer: pl.Trainer) -> bool:
    """Whether the place of each loader is one among all items, whatever processes share them."""
    return all(isinstance(loader, ImageLoader) for loader in leaves(trainer.train_dataloader))


def _stateful(trainer: pl.Trainer) -> list[Any]:
    """The loaders that know their place, but for those of which all processes are at the same one."""
    return [
        loader
        for loader in leaves(trainer.train_dataloader)
        if hasattr(loader, "load_state_dict") and not isinstance(loader, ImageLoader)
    ]


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
    """As Lightning does when an epoch begins, and not when one goes on; and a stream, which it leaves to the user."""
    batches, data = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    for sampler in (getattr(loader, "sampler", None), getattr(batches, "sampler", None), batches, data):
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
