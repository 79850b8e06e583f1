"""Outputs of layers that do not change, computed once for each item and read again.

While only a head trains, the layers before it give the same outputs in every epoch. They are kept here by item, in
memory or, where that is too much, in a file that is mapped into it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

IN_MEMORY = 2 * 2**30
"""Bytes up to which outputs are kept in memory."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class FeatureCache:
    """Tensors by item and view, bit for bit as they were written, memory format included.

    Args:
        items: How many items there are.
        views: How many versions of each are kept, such as of different augmentations.
        folder: Where a file is made if they are too large for memory; it is gone when the process ends.
        in_memory: Bytes up to which they are not.

    Attributes:
        nbytes: Of all items and views; 0 before anything is written.
        is_on_disk: Whether they are in a file.
    """

    def __init__(self, items: int, views: int = 1, *, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self.items, self.folder, self.in_memory = items, folder, in_memory
        self.nbytes = 0
        self.is_on_disk = False
        self._filled = torch.zeros(views, items, dtype=torch.bool)
        self._columns: list[_Column | None] = []
        self._spec: TreeSpec | None = None
        self._watched: list[Tensor] = []
        self._mark: tuple[int, ...] = ()

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Remember the tensors that the outputs were computed with, as they are now."""
        self._watched = list(tensors)
        self._mark = fingerprint(self._watched)

    def is_current(self) -> bool:
        """Whether the watched tensors are what they were."""
        return fingerprint(self._watched) == self._mark

    def has(self, view: int) -> bool:
        """Whether every item of a view is there."""
        return bool(self._filled[view].all())

    def write(self, view: int, rows: Tensor, outputs: Any) -> None:
        """Keep the outputs of some items.

        Args:
            view: Of which version.
            rows: Positions of the items, int64 ``[B]``.
            outputs: Tensors ``[B, ...]`` in lists, tuples and dicts, of the same shapes each time, without gradients;
                None is kept as None.
        """
        leaves, spec = tree_flatten(outputs)
        if self._spec is None:
            self._allocate(leaves, spec)
        places = view * self.items + rows.cpu()
        for column, leaf in zip(self._columns, leaves, strict=True):
            if column is not None:
                column.write(places, leaf)
        self._filled[view, rows.cpu()] = True

    def read(self, view: int, rows: Tensor) -> Any:
        """The outputs of some items, as they were written, in this process's memory.

        Args:
            view: Of which version.
            rows: Positions of the items, int64 ``[B]``.
        """
        places = view * self.items + rows
        leaves = [None if column is None else column.read(places) for column in self._columns]
        return None if self._spec is None else tree_unflatten(leaves, self._spec)

    def _allocate(self, leaves: Sequence[Any], spec: TreeSpec) -> None:
        count = self._filled.numel()
        self.nbytes = count * bytes_of_one(leaves)
        self.is_on_disk = self.nbytes > self.in_memory
        allocate = self._on_disk if self.is_on_disk else torch.empty
        self._columns = [None if leaf is None else _Column(leaf, count, allocate) for leaf in leaves]
        self._spec = spec

    def _on_disk(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="features-", delete=False) as file:
            path = Path(file.name)
        mapped = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)
        with suppress(PermissionError):  # Windows keeps the name of a file that is in use
            path.unlink()
        return mapped.view(shape)


class _Column:
    """One tensor of all items, its dimensions in the order of their strides."""

    def __init__(self, like: Tensor, count: int, allocate: Callable[..., Tensor]) -> None:
        strides = like.stride()
        inner = sorted(range(1, like.ndim), key=lambda dim: -strides[dim])
        self.order = (0, *inner)
        self.back = tuple(self.order.index(dim) for dim in range(like.ndim))
        self.values = allocate([count, *(like.shape[dim] for dim in inner)], dtype=like.dtype)

    def write(self, places: Tensor, leaf: Tensor) -> None:
        self.values[places] = leaf.detach().permute(self.order).cpu()

    def read(self, places: Tensor) -> Tensor:
        return self.values[places].permute(self.back)


def bytes_of_one(outputs: Any) -> int:
    """Bytes that the outputs of one item of a batch take; of tensors ``[B, ...]``, B at least 1."""
    return sum(leaf[0].numel() * leaf.element_size() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))


def fingerprint(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """A number for each tensor that is another one when its bits change; waits for the device once."""
    sums = [tensor.detach().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    return tuple(torch.stack(sums).tolist()) if sums else ()


@contextmanager
def used_tensors(owner: nn.Module) -> Iterator[list[Tensor]]:
    """The parameters and buffers of ``owner`` itself and of each module that runs inside; complete on leaving."""
    ran: dict[nn.Module, None] = {owner: None}
    found: list[Tensor] = []
    hook = register_module_forward_pre_hook(lambda module, inputs: ran.setdefault(module))
    try:
        yield found
    finally:
        hook.remove()
    for module in ran:
        found += [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def why_not_reusable(features: Callable[[Tensor], Any], images: Tensor, owner: nn.Module) -> str | None:
    """Why what ``features`` gives now is not what it will give again; None where it is.

    Args:
        features: Images ``[B, C, H, W]`` to tensors ``[B, ...]``, in the mode in which training runs it.
        images: A batch of at least two.
        owner: Holds its buffers.

    Returns:
        Half a sentence.
    """
    buffers = [buffer.clone() for buffer in owner.buffers()]
    generators = _random_state(images)
    outputs = _tensors(features(images))
    if any(output.requires_grad for output in outputs):
        return "some of the layers before the head train"
    if not all(map(torch.equal, generators, _random_state(images))):
        return "layers before the head draw random numbers, as dropout does"
    if not all(map(_same, buffers, owner.buffers())):
        return "norm layers before the head follow the batches"
    half = len(images) // 2
    places = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    places[1 : half + 1] = torch.arange(half)  # elsewhere in the batch, among others
    with torch.no_grad():
        moved = _tensors(features(torch.empty_like(images).copy_(images[places])))  # in the same memory format
    if not all(_same(one[:half], other[1 : half + 1]) for one, other in zip(outputs, moved, strict=True)):
        return "the outputs of an image depend on the other images of its batch"
    return None


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _random_state(like: Tensor) -> list[Tensor]:
    own = [torch.cuda.get_rng_state(like.device)] if like.is_cuda else []
    return [torch.get_rng_state(), *own]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    return one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(_INTEGERS[tensor.element_size()])
