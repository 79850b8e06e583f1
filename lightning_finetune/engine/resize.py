"""Which size training images have: sizes that a model can take, and none so small that it sees nothing."""

from __future__ import annotations

from lightning_finetune.errors import PhaseError

Size = tuple[int, int]

MIN_SIZE = 64
STRIDE = 32


def snap(size: Size, stride: int = STRIDE) -> Size:
    """The nearest size with both sides multiples of ``stride``, at least one.

    Args:
        size: Height and width in pixels.
        stride: By which the model shrinks an image in all.
    """
    height, width = (max(stride, stride * round(side / stride)) for side in size)
    return height, width


def target_size(size: int | Size, final: Size | None, stride: int = STRIDE) -> Size:
    """The training size that ``size`` means.

    Args:
        size: The shorter side, or height and width.
        final: The size that the data validate at, which gives the shape; it is never snapped itself. None: square.
        stride: By which the model shrinks an image in all.
    """
    if final is not None and (size == final or size == min(final)):
        return final
    if isinstance(size, int):
        scale = 1.0 if final is None else size / min(final)
        size = (size, size) if final is None else (round(final[0] * scale), round(final[1] * scale))
    return snap(size, stride)


def check_min_size(size: int | Size, min_size: int) -> None:
    """Refuse images so small that a network pretrained on photos sees little in them.

    Raises:
        PhaseError: A side is shorter than ``min_size``.
    """
    shortest = size if isinstance(size, int) else min(size)
    if shortest < min_size:
        raise PhaseError(
            f"Expected training images of at least {min_size} pixels, got {size}: the lessons' rule is not to go below "
            f"64 x 64. If smaller ones are meant, lower `min_size`."
        )
