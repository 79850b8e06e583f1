"""Augmentation as the lessons have it: numbers drawn in the worker, one resample of the whole batch on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from lightning_finetune.data.pixels.draws import Floats, Ints, Stream, uniforms
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import DataError, did_you_mean

Preset: TypeAlias = Literal["photo", "satellite", "none"]
Pixels: TypeAlias = npt.NDArray[np.uint8]

_COLUMNS = 16


@dataclass(frozen=True)
class Augment:
    """Random flips, rotation, zoom, perspective warp and lighting, each image with its own draw.

    Names and defaults are those of fast.ai's ``aug_transforms`` (lesson "Beyond finetuning").

    Args:
        do_flip: Mirror left and right, half of the images.
        flip_vert: Also up and down and by quarter turns, where no side is up (aerial photos): half of the images get
            one of the eight symmetries of a square (of the four of a rectangle, where the image is not square).
        max_rotate: Largest rotation, in degrees to each side.
        min_zoom: Smallest magnification.
        max_zoom: Largest magnification; what it shows lies anywhere in the image.
        max_lighting: Largest change of brightness and contrast, 0 to below 1.
        max_warp: Largest shift of the corners by a change of the viewpoint, as a part of half the image.
        p_affine: How likely each of rotation, zoom and the two directions of the warp is.
        p_lighting: How likely each of brightness and contrast is.
    """

    do_flip: bool = True
    flip_vert: bool = False
    max_rotate: float = 10.0
    min_zoom: float = 1.0
    max_zoom: float = 1.1
    max_lighting: float = 0.2
    max_warp: float = 0.2
    p_affine: float = 0.75
    p_lighting: float = 0.75

    def __post_init__(self) -> None:
        check_types(Augment, vars(self), DataError)
        if not 0 <= self.max_lighting < 1:
            raise DataError(f"max_lighting: expected 0 <= max_lighting < 1, got {self.max_lighting}.")
        if not 0 < self.min_zoom <= self.max_zoom:
            raise DataError(f"Expected 0 < min_zoom <= max_zoom, got {self.min_zoom} and {self.max_zoom}.")
        if not 0 <= self.max_warp < 0.5:
            raise DataError(f"max_warp: expected 0 <= max_warp < 0.5, got {self.max_warp}.")

    @classmethod
    def preset(cls, name: str) -> Augment:
        """``"photo"`` (the defaults), ``"satellite"`` (no side is up, seen straight from above) or ``"none"``.

        With ``"none"`` training images are those that validation would see, their crop included.
        """
        if name not in _PRESETS:
            raise DataError(f"augment: expected one of {sorted(_PRESETS)}, got {name!r}.{did_you_mean(name, _PRESETS)}")
        return _PRESETS[name]

    @property
    def is_random(self) -> bool:
        """Whether training images differ from epoch to epoch, be it by their crop alone."""
        return self != _PRESETS["none"]

    def symmetries(self, seed: int, epoch: int, items: Ints, square: bool) -> Ints:
        """For each item which flips it gets: bit 0 left-right, bit 1 up-down, bit 2 transpose; ``[B]``."""
        draws = uniforms(seed, epoch, items, _COLUMNS, Stream.AUGMENT)
        chosen = draws[:, 0] < 0.5
        if self.flip_vert:
            codes = (draws[:, 1] * (8 if square else 4)).astype(np.int64)
        else:
            codes = np.full(len(draws), int(self.do_flip), dtype=np.int64)
        return np.where(chosen, codes, 0)

    def plan(self, seed: int, epoch: int, items: Ints, size: tuple[int, int]) -> Tensor:
        """What happens to each item on the device.

        Returns:
            ``[B, 10]`` float32, eight numbers of a homography that maps output to input coordinates (both -1..1),
            brightness and contrast. Its bits are an int32 tensor, because reduced-precision trainers cast float
            inputs and would blur the geometry.
        """
        draws = uniforms(seed, epoch, items, _COLUMNS, Stream.AUGMENT)
        matrices = self._warp(draws) @ self._rotation(draws, size[1] / size[0]) @ self._zoom(draws)
        flat = (matrices / matrices[:, 2:, 2:]).reshape(-1, 9)[:, :8]
        numbers = np.concatenate([flat, self._lighting(draws)], axis=1).astype(np.float32)
        return torch.from_numpy(numbers.view(np.int32))

    def __call__(self, images: Tensor, masks: Tensor | None, plan: Tensor) -> tuple[Tensor, Tensor | None]:
        """Carry out ``plan``.

        Args:
            images: uint8 ``[B, 3, h, w]``.
            masks: Class ids ``[B, h, w]``, resampled by nearest neighbour with the matrices of their images.
            plan: From :meth:`plan`.

        Returns:
            Images as float32 in 0..1, and masks with their dtype.
        """
        numbers = plan.view(torch.float32)
        pixels = images.float().div_(255)
        if self._moves:
            grid = _grid(numbers[:, :8], images.shape[-2], images.shape[-1])
            pixels = _sample(pixels, grid, "bilinear")
            if masks is not None:
                masks = _sample(masks[:, None].float(), grid, "nearest")[:, 0].to(masks.dtype)
        if self.max_lighting > 0:
            pixels = _light(pixels, numbers[:, 8], numbers[:, 9])
        return pixels, masks

    @property
    def _moves(self) -> bool:
        """Whether any image is resampled at all; flips alone stay exact."""
        return self.p_affine > 0 and (self.max_rotate, self.max_warp, self.min_zoom, self.max_zoom) != (0, 0, 1, 1)

    def _rotation(self, draws: Floats, aspect: float) -> Floats:
        angle = np.deg2rad(self.max_rotate) * _signed(draws[:, 3]) * (draws[:, 2] < self.p_affine)
        matrices = _identities(len(draws))
        matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
        matrices[:, 0, 1], matrices[:, 1, 0] = np.sin(angle) / aspect, -np.sin(angle) * aspect
        return matrices

    def _zoom(self, draws: Floats) -> Floats:
        magnification = self.min_zoom + (self.max_zoom - self.min_zoom) * draws[:, 5]
        shown = 1 / np.where(draws[:, 4] < self.p_affine, magnification, 1.0)
        matrices = _identities(len(draws))
        matrices[:, 0, 0] = matrices[:, 1, 1] = shown
        matrices[:, 0, 2], matrices[:, 1, 2] = (1 - shown) * _signed(draws[:, 6]), (1 - shown) * _signed(draws[:, 7])
        return matrices

    def _warp(self, draws: Floats) -> Floats:
        """The homography that takes the corners of the square to those of a keystone in each direction."""
        x = self.max_warp * _signed(draws[:, 9]) * (draws[:, 8] < self.p_affine)
        y = self.max_warp * _signed(draws[:, 11]) * (draws[:, 10] < self.p_affine)
        corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float64)
        across = corners[:, 0] * (1 - y[:, None] * corners[:, 1])
        down = corners[:, 1] * (1 - x[:, None] * corners[:, 0])
        return _homographies(corners, np.stack([across, down], axis=-1))

    def _lighting(self, draws: Floats) -> Floats:
        """Shift and factor of the logits of the pixels, ``[B, 2]``."""
        change = np.where(draws[:, 12] < self.p_lighting, 0.5 * (1 + self.max_lighting * _signed(draws[:, 13])), 0.5)
        power = np.where(draws[:, 14] < self.p_lighting, _signed(draws[:, 15]), 0.0)
        return np.stack([np.log(change / (1 - change)), (1 - self.max_lighting) ** -power], axis=1)


_PRESETS: dict[str, Augment] = {
    "photo": Augment(),
    "satellite": Augment(flip_vert=True, max_warp=0.0),
    "none": Augment(
        do_flip=False, max_rotate=0.0, max_zoom=1.0, max_lighting=0.0, max_warp=0.0, p_affine=0.0, p_lighting=0.0
    ),
}


def turned(pixels: Pixels, code: int) -> Pixels:
    """An image or mask ``[h, w, ...]`` under one symmetry of the square (see :meth:`Augment.symmetries`), exactly."""
    if code & 4:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if code & 2 else 1, :: -1 if code & 1 else 1]


def _identities(count: int) -> Floats:
    return np.tile(np.eye(3), (count, 1, 1))


def _signed(draw: Floats) -> Floats:
    """From 0..1 to -1..1."""
    return 2 * draw - 1


def _homographies(points: Floats, images: Floats) -> Floats:
    """The matrices ``[B, 3, 3]`` that take four ``points`` ``[4, 2]`` to ``images`` ``[B, 4, 2]``."""
    count = len(images)
    ones, zeros = np.ones(4), np.zeros(4)
    x, y = points.T
    rows = np.zeros((count, 8, 8))
    rows[:, :4, :6] = np.stack([x, y, ones, zeros, zeros, zeros], axis=1)
    rows[:, 4:, :6] = np.stack([zeros, zeros, zeros, x, y, ones], axis=1)
    targets = np.concatenate([images[..., 0], images[..., 1]], axis=1)
    rows[:, :, 6:] = -targets[..., None] * np.tile(points, (2, 1))
    solved = np.linalg.solve(rows, targets[..., None])[..., 0]
    return np.concatenate([solved, np.ones((count, 1))], axis=1).reshape(-1, 3, 3)


def _grid(numbers: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel looks in its input, ``[B, h, w, 2]`` in -1..1."""
    x = torch.linspace(-1, 1, width, device=numbers.device)[None, None, :]
    y = torch.linspace(-1, 1, height, device=numbers.device)[None, :, None]
    a, b, c, d, e, f, g, h = (numbers[:, k, None, None] for k in range(8))
    grid = numbers.new_empty(len(numbers), height, width, 2)  # filled in place: its size makes allocation the cost
    torch.add(a * x, b * y + c, out=grid[..., 0])
    torch.add(d * x, e * y + f, out=grid[..., 1])
    return grid.div_((g * x + (h * y + 1))[..., None])


def _sample(pixels: Tensor, grid: Tensor, mode: str) -> Tensor:
    return grid_sample(pixels, grid, mode=mode, padding_mode="reflection", align_corners=True)


def _light(pixels: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """Brightness and contrast in logit space, so that no pixel leaves 0..1."""
    shift, factor = (number[:, None, None, None] for number in (shift, factor))
    return pixels.logit_(eps=1e-7).add_(shift).mul_(factor).sigmoid_()
