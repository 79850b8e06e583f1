"""A task that is asked on all devices of a Trainer: each process takes its share, and none twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.engine.allocator import keep_freed
from lightning_finetune.engine.processes import gathered
from lightning_finetune.errors import DataError, UnsupportedError, first_ten
from lightning_finetune.tasks.shared.sources import Sources, list_sources

CHUNK = 8
"""Batches whose images are read ahead of the network."""

Place = tuple[int, ImageSource]
"""The position of an image among all, and the image."""


def ask(
    trainer: Trainer, task: LightningModule, share: Callable[[Trainer], Iterable[Any]], take: Callable[[Any], None]
) -> None:
    """Have ``take`` called with each part of this process's share, with the task on its device.

    Args:
        trainer: Any whose processes run the whole script.
        task: Who is asked, in ``take``.
        share: Of this process; asked when it knows of the others.
        take: Called with each part, in the precision of the Trainer.

    Raises:
        UnsupportedError: The Trainer spawns or forks processes, which give nothing back.
    """
    if any("MultiProcessing" in kind.__name__ for kind in type(trainer.strategy.launcher).__mro__):
        raise UnsupportedError(
            f"Expected a Trainer whose processes run the whole script, got {type(trainer.strategy).__name__} that "
            'spawns or forks them, as in a notebook. Use strategy="ddp" in a script, torchrun, or one device.'
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*length is zero on one or more")
        trainer.predict(_Asked(task, take), datamodule=_Shares(share), return_predictions=False)


def predict_all(task: Any, source: Sources, trainer: Trainer | None, *, batch_size: int, **options: Any) -> Any:
    """What ``predict_each`` of the task says of all images: one prediction for one image, a list for many.

    With a Trainer its processes share the images, and each gets all predictions.

    Raises:
        DataError: Some images could not be read; names them.
    """
    sources, many = list_sources(source)
    if trainer is None:
        predictions = [said for _, said in task.predict_each(sources, batch_size=batch_size, **options)]
    else:
        own: dict[int, Any] = {}
        predict_share(trainer, task, sources, lambda place, _, said: own.update({place: said}), batch_size, **options)
        said = {place: one for share in gathered(own) for place, one in share.items()}
        predictions = [said[place] for place in range(len(sources))]
    bad = [str(prediction) for prediction in predictions if isinstance(prediction, DataError)]
    if bad:
        raise DataError(f"{len(bad)} of {len(predictions)} images cannot be read:{first_ten(bad)}")
    return predictions if many else predictions[0]


def predict_share(
    trainer: Trainer,
    task: Any,
    sources: Sequence[ImageSource],
    take: Callable[[int, ImageSource, Any], None],
    batch_size: int,
    **options: Any,
) -> None:
    """Have ``take`` called with position, image and prediction of each of this process's share.

    Args:
        trainer: As of :func:`ask`.
        task: That predicts.
        sources: All images; the k-th of as many processes takes every n-th from the k-th on.
        take: Called in the order of the share.
        batch_size: As of ``predict_each`` of the task.
        **options: The same.
    """

    def take_chunk(chunk: Sequence[Place]) -> None:
        pairs = task.predict_each([source for _, source in chunk], batch_size=batch_size, **options)
        for (place, _), (source, said) in zip(chunk, pairs, strict=True):
            take(place, source, said)

    def share(trainer: Trainer) -> _Chunks:
        mine = range(trainer.global_rank, len(sources), trainer.world_size)
        return _Chunks([(place, sources[place]) for place in mine], CHUNK * batch_size)

    ask(trainer, task, share, take_chunk)


class _Asked(LightningModule):
    """What the Trainer runs."""

    def __init__(self, task: LightningModule, take: Callable[[Any], None]) -> None:
        super().__init__()
        self.task = task
        self.take = take
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer images than processes

    def on_predict_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed()

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[()]:
        self.take(batch)
        return ()  # of nothing Lightning would warn


class _Shares(LightningDataModule):
    """The share of each process."""

    def __init__(self, share: Callable[[Trainer], Iterable[Any]]) -> None:
        super().__init__()
        self.share = share

    def predict_dataloader(self) -> Iterable[Any]:
        return self.share(self.trainer) if self.trainer else ()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # what is taken goes there by itself


class _Chunks:
    """Parts of a list; not a list, which Lightning would take as several loaders."""

    def __init__(self, places: Sequence[Place], size: int) -> None:
        self.places, self.size = places, size

    def __len__(self) -> int:
        return -(-len(self.places) // self.size)

    def __iter__(self) -> Iterator[Sequence[Place]]:
        return (self.places[start : start + self.size] for start in range(0, len(self.places), self.size))
