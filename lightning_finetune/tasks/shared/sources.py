"""The images that a prediction is asked for, and how a task sees them: as validation saw its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor

from lightning_finetune.data.block.folder_images import image_files
from lightning_finetune.data.pixels.decode import ImageSource, Size, image_size, upright_size
from lightning_finetune.data.pixels.image_files import ready_for_threads
from lightning_finetune.engine.processes import readers
from lightning_finetune.errors import DataError, FinetuneError

Sources: TypeAlias = "ImageSource | Sequence[ImageSource]"

T = TypeVar("T")


def list_sources(source: Sources) -> tuple[Sequence[ImageSource], bool]:
    """The images that ``source`` means, and whether it means many."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        files = image_files(Path(source))
        if not files:
            raise DataError(f"{source}: expected a folder with images, found none in it.")
        return files, True
    if isinstance(source, Sequence) and not isinstance(source, str):
        return source, True
    return [source], False


def path_of(source: ImageSource) -> Path | None:
    """The file that an image comes from, where it comes from one."""
    return Path(source) if isinstance(source, (str, Path)) else None


def named(file: Path | None) -> str:
    """What a prediction says of the file that it is of; nothing where there is none."""
    return "" if file is None else f" of {file}"


def known_preprocessing(preprocessing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """``preprocessing``, if it says at which size images are made.

    Raises:
        FinetuneError: It does not.
    """
    if preprocessing is None or preprocessing.get("size") is None:
        raise FinetuneError(
            "Expected a task that knows the size of its images; its data module has no `preprocessing()`. "
            "Set task.preprocessing = {'size': [h, w], 'mean': […], 'std': […], 'resize': 'crop'} as it was trained."
        )
    return preprocessing


def normalize(pixels: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """uint8 images ``[B, C, H, W]`` as the model takes them."""
    mean, std = (pixels.new_tensor(preprocessing[name], dtype=torch.float32) for name in ("mean", "std"))
    return (pixels / 255).sub_(mean[:, None, None]).div_(std[:, None, None])  # of large images copies would be much


def original_size(source: ImageSource) -> Size:
    """Height and width of an image, upright as it is seen.

    Raises:
        DataError: A file that is no image.
    """
    if isinstance(source, Tensor):
        return source.shape[-2], source.shape[-1]
    if isinstance(source, Image.Image):
        return upright_size(source)
    return image_size(source) if isinstance(source, (str, Path)) else (source.shape[0], source.shape[1])


def read_ahead(read: Callable[[ImageSource], T], sources: Sequence[ImageSource], *, ahead: int) -> Iterator[T]:
    """What ``read`` gives for each source, in their order.

    Pillow leaves Python to others while it decodes and resizes, so that threads read beside the network.

    Args:
        read: Called in as many threads as there are CPU cores, or where that is one, as it is asked.
        sources: What to read.
        ahead: How many are read, or wait to be, before they are asked for.
    """
    threads = min(readers(), len(sources))
    if threads <= 1:
        yield from map(read, sources)
        return
    ready_for_threads()
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[T]]()
    try:
        for source in sources:
            waiting.append(pool.submit(read, source))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # who asked no further needs no more
