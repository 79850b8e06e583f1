"""How much of an image fits into a bounded memory: what a network makes of one is counted, whatever the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.engine.nested import leaves
from lightning_finetune.tasks.shared.tiling import STEP, in_steps, overlap_of

MOST = 3 * 2**30
"""Bytes for what is made of a piece and for the seams; the default U-Net with 32 classes takes half of it for 1,024
pixels a side."""

_COPIES = 4  # of the values of a piece that lie in memory while they are blended and judged

_SMALL = 2**24  # values up to which images are seen as they are: nothing has to be measured


@dataclass(frozen=True)
class Room:
    """What a network takes.

    Attributes:
        pixel: Bytes at the peak, for each pixel of the images that are seen at once.
        classes: Values of each pixel that come out.
        least: Side of a piece that is not gone below, as validation saw images of that size.
    """

    pixel: float
    classes: int
    least: int

    def side(self, most: int, width: int) -> int:
        """The largest side of a piece, up to ``most``, that keeps an image of ``width`` within :data:`MOST`."""
        sides = range(most, min(self.least, most), -2 * STEP)
        return next((side for side in sides if self._taken(side, width) <= MOST), min(self.least, most))

    def images(self, size: Size) -> int:
        """How many images of ``size`` may be seen at once."""
        return max(1, int(MOST // (self._each * size[0] * size[1])))

    def _taken(self, side: int, width: int) -> float:
        seams = 4 * self.classes * overlap_of(side) * width if width > side else 0
        return self._each * side**2 + seams

    @property
    def _each(self) -> float:
        """Bytes of a pixel, with the blending."""
        return self.pixel + 4 * _COPIES * self.classes


def is_small(images: int, size: Size, classes: int) -> bool:
    """Whether so many images of ``size`` need no :class:`Room`, whatever the network."""
    return images * size[0] * size[1] * max(classes, 64) <= _SMALL


def room_of(forward: Callable[[Tensor], Tensor], image: Tensor) -> Room:
    """Have one image ``[1, C, h, w]`` seen, of the size that validation saw, and count what that takes."""
    with _Held() as held:
        values = forward(image)
    pixels = image.shape[-2] * image.shape[-1]
    return Room(held.peak / pixels, values.shape[1], in_steps(max(image.shape[-2:])))


class _Held(TorchFunctionMode):
    """Counts the bytes of the tensors that functions give, as long as something holds them.

    A graph that was compiled or scripted is one function: what lies within it is not seen.

    Attributes:
        peak: The most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked for, and count."""
        made = func(*args, **(kwargs or {}))
        given = {_reference(tensor).cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(made):
            reference = _reference(tensor)
            if reference.cdata not in given:
                self._held[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
        gone = [place for place, (one, _) in self._held.items() if one.expired()]  # type: ignore[no-untyped-call]
        for place in gone:
            del self._held[place]
        self.peak = max(self.peak, sum(count for _, count in self._held.values()))
        return made


def _tensors(held: Any) -> list[Tensor]:
    """Those in memory of their own: a sparse tensor has none."""
    return [one for one in leaves(held) if isinstance(one, Tensor) and one.layout == torch.strided]


def _reference(tensor: Tensor) -> StorageWeakRef:
    """To the memory of a tensor, which may outlive it in a view."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
