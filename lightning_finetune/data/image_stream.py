"""Images that no machine holds all of, as a data module: another library streams them."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset

from lightning_finetune.data.batches.pixel_module import PixelModule
from lightning_finetune.data.batches.stream_loader import StreamBatch, StreamLoader, of_litdata
from lightning_finetune.data.block.options import Stats
from lightning_finetune.data.block.rows import class_names, pair_of
from lightning_finetune.data.block.torch_datasets import labels_of
from lightning_finetune.data.pixels.decode import Resize
from lightning_finetune.data.pixels.mix import Mix
from lightning_finetune.data.pixels.transforms import Augmentation
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import DataError


class ImageStream(PixelModule):
    """Streams of (image, target), as a Lightning data module.

    The batches, sizes and augmentation are those of :class:`~lightning_finetune.data.image_data.ImageData`. Shuffling,
    and which rows each worker and process gets, are the stream's own: LitData's and Hugging Face's share rows among
    processes, WebDataset's where it is told to (``nodesplitter=webdataset.split_by_node``). A shuffle must be one
    that begins again with the same seed (WebDataset: ``detshuffle``), or a resumed run sees other rows.

    Args:
        train: LitData's ``StreamingDataset``, Hugging Face's ``IterableDataset``, a ``WebDataset`` that is not batched,
            or any iterable dataset. Rows are pairs, or dicts with the usual keys; images are encoded (``bytes``), PIL
            images, uint8 arrays ``[h, w, 3]`` or tensors ``[3, h, w]``; targets as in ``ImageData.from_dataset``.
        valid: The same for validation.
        classes: Names in the order of the class numbers, or of numbers; by default those that ``train`` says itself.
        size: Height and width in pixels, or one number for both.
        batch_size: Images a batch and process.
        num_workers: Processes that load images; by default one a CPU core, at most 8, and one a shard.
        augment: Augmentation of training images.
        mix: ``"mixup"``, ``"cutmix"``, or one of their classes.
        resize: ``"crop"`` or ``"squish"``.
        seed: Of crops and augmentation.
        stats: Mean and standard deviation of the channels; by default those of the model's backbone.
        channels: 3 for RGB, 1 for grey, or as many as every image has.
        white: The value that is white in images of more than 8 bits, where their type does not say it.

    Raises:
        DataError: A stream is none, it is empty, its rows have another form, or nothing names its classes.
    """

    def __init__(
        self,
        train: Any,
        valid: Any,
        classes: Sequence[str] | None = None,
        *,
        size: int | tuple[int, int] = 224,
        batch_size: int = 64,
        num_workers: int | None = None,
        augment: Augmentation = "photo",
        mix: Mix | None = None,
        resize: Resize = "crop",
        seed: int = 42,
        stats: Stats | None = None,
        channels: int = 3,
        white: float | None = None,
    ) -> None:
        check_types(ImageStream.__init__, locals(), DataError)
        names = classes if classes is not None else class_names(train)
        labels = labels_of([_first_target(train), _first_target(valid, "valid")], names)
        if names is None:
            raise DataError("classes: expected their names, as a stream is not read to find them. Give classes=[…].")
        super().__init__(
            labels.kind,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            mix=mix,
            resize=resize,
            seed=seed,
            stats=stats,
            channels=channels,
            white=white,
        )
        self.train, self.valid = train, valid
        self.classes = list(names)

    def __repr__(self) -> str:
        height, width = self.size
        said = f"{self.num_classes} classes, {height} x {width} pixels, batches of {self.batch_size}"
        return f"{type(self).__name__}: {type(self.train).__name__}, {said}"

    __str__ = __repr__  # Lightning's lists the loaders' sizes, and makes them for it

    def train_dataloader(self) -> StreamLoader:
        """Augmented batches at ``train_size``, in the order of the stream."""
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> StreamLoader:
        """Each row of the validation once, at ``size``."""
        return self._loader(self.valid)

    def predict_dataloader(self) -> StreamLoader:
        """The rows of the validation."""
        return self._loader(self.valid)

    def _loader(self, stream: Any, training: bool = False) -> StreamLoader:
        augment, mix = (self.augment, self.mix) if training else (None, None)
        trainer = self.trainer
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)
        loader = StreamLoader(
            _share(stream, rank, world_size, 1 if trainer is None else trainer.num_nodes),
            StreamBatch(self.kind, self.resize, self.seed, augment, mix, self.channels, self.white),
            lambda: self.train_size if training else self.size,
            batch_size=self.batch_size,
            num_workers=min(self._workers(), getattr(stream, "num_shards", None) or self._workers()),
            pin_memory=self._pins(),
            world_size=world_size,
            agree=bool if trainer is None else trainer.strategy.reduce_boolean_decision,
        )
        self._loaders.append(weakref.ref(loader))
        return loader


def _first_target(stream: Any, name: str = "train") -> Any:
    """The target of the first row, read from a copy, so that nobody's place moves.

    Raises:
        DataError: There is none.
    """
    if not isinstance(stream, IterableDataset):
        raise DataError(
            f"{name}: expected a stream (an iterable dataset of torch's), got {type(stream).__name__}. Data that is "
            "asked by position is for ImageData.from_dataset."
        )
    if not (of_litdata(stream) or _knows_its_place(stream)):  # of LitData's their own loader is used
        raise DataError(
            f"{name}: expected a stream that knows its own place, got one whose `state_dict` needs arguments "
            f"({type(stream).__name__}): only its own loader knows. Give it to a LightningModule of yours."
        )
    for row in copy.deepcopy(stream):
        return pair_of(row)[1]
    raise DataError(f"{name}: expected a stream of (image, target) pairs, got an empty one.")


def _knows_its_place(stream: Any) -> bool:
    """Whether its ``state_dict``, if it has one, can be asked without arguments, as torchdata's loader does."""
    try:
        inspect.signature(getattr(stream, "state_dict", lambda: None)).bind()
    except TypeError:
        return False
    return True


def _share(stream: Any, rank: int, world_size: int, num_nodes: int) -> Any:
    """What one of several processes sees of a stream of LitData's or Hugging Face's; others ask torch themselves."""
    homes = {kind.__module__.partition(".")[0] for kind in type(stream).__mro__}
    if world_size > 1 and "litdata" in homes:  # it asked when it was made, before the processes knew of each other
        stream = copy.deepcopy(stream)
        stream.distributed_env = type(stream.distributed_env)(world_size, rank, num_nodes)
        stream.set_drop_last(True)
    elif world_size > 1 and "datasets" in homes:
        from datasets.distributed import split_dataset_by_node

        stream = split_dataset_by_node(stream, rank, world_size)
    return stream
