"""Losses of labels and masks that torch has not, each with weights of classes and, for masks, pixels to ignore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.shared.arguments import check_class_weights, choose

LabelLoss: TypeAlias = Literal["bce", "focal", "asymmetric"]
MaskLoss: TypeAlias = Literal["ce", "dice", "focal", "lovasz"]
MASK_LOSSES: tuple[str, ...] = get_args(MaskLoss)

_FOCUS = 2.0  # the exponent of focal loss that its authors found best

# Exponents for present and for absent labels, and how far the probabilities of absent ones are shifted.
_SHAPES: dict[str, tuple[float, float, float]] = {
    "bce": (0.0, 0.0, 0.0),
    "focal": (_FOCUS, _FOCUS, 0.0),
    "asymmetric": (1.0, 4.0, 0.05),
}


class MultiLabelLoss(nn.Module):
    """Cross-entropy of each label on its own, averaged over images and labels; focal and asymmetric as one formula.

    With ``p`` the probability of a label: ``-(1 - p)^a log p`` where it is present and ``-q^b log(1 - q)`` with
    ``q = max(p - shift, 0)`` where it is absent. Binary cross-entropy has ``a = b = shift = 0``; focal loss (Lin et al.
    2017, https://arxiv.org/abs/1708.02002) ``a = b = 2``; asymmetric loss (Ridnik et al. 2021,
    https://arxiv.org/abs/2009.14119) ``a = 1, b = 4, shift = 0.05``.

    Args:
        name: Which of them.
        num_labels: How many labels.
        pos_weight: Weight of each label where it is present.
        label_smoothing: Part of each target that is moved to one half.

    Raises:
        FinetuneError: An unknown name, or weights that are not one number for each label.
    """

    pos_weight: Tensor

    def __init__(
        self, name: LabelLoss, num_labels: int, *, pos_weight: list[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.present, self.absent, self.shift = _SHAPES[choose("loss", name, _SHAPES)]
        self.label_smoothing = label_smoothing
        weight = check_class_weights(pos_weight, num_labels, "pos_weight")
        self.register_buffer("pos_weight", torch.ones(num_labels) if weight is None else weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``[B, L]`` for targets ``[B, L]`` in 0..1."""
        logits = logits.float()  # half precision has no room for the logarithms
        target = target.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        p = logits.sigmoid()
        present = -nn.functional.logsigmoid(logits) * (1 - p) ** self.present
        q = (p - self.shift).clamp(min=0)
        log = nn.functional.logsigmoid(-logits) if self.shift == 0 else torch.log1p(-q)  # only unshifted q comes near 1
        absent = -log * q**self.absent
        return (self.pos_weight * target * present + (1 - target) * absent).mean()


class SegmentationLoss(nn.Module):
    """A weighted sum of losses of masks, over the pixels that are not ignored.

    ``"ce"``: cross-entropy. ``"focal"``: the same, with weight ``(1 - p)^2`` (Lin et al. 2017). ``"dice"``: 1 - the
    Dice coefficient of probabilities (Milletari et al. 2016, https://arxiv.org/abs/1606.04797) and ``"lovasz"``: the
    Lovász extension of 1 - IoU (Berman et al. 2018, https://arxiv.org/abs/1705.08790), both averaged over the classes
    that the batch holds.

    Args:
        losses: Weight of each loss in the sum.
        num_classes: How many classes.
        class_weights: Weight of each class, in each of the losses.
        ignore_index: Class id of pixels that count for nothing.

    Raises:
        FinetuneError: An unknown loss, or weights that are not one number for each class.
    """

    weight: Tensor

    def __init__(
        self,
        losses: dict[MaskLoss, float],
        num_classes: int,
        *,
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise FinetuneError(f"Expected `loss` to name at least one of {list(MASK_LOSSES)}, got {losses}.")
        self.losses = {choose("loss", name, MASK_LOSSES): share for name, share in losses.items()}
        self.ignore_index = ignore_index
        weight = check_class_weights(class_weights, num_classes)
        self.register_buffer("weight", torch.ones(num_classes) if weight is None else weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``[B, C, H, W]`` for class ids ``[B, H, W]``."""
        return self.mean(self._sums(logits, target, images=1))

    @property
    def by_pixel(self) -> bool:
        """Whether :meth:`sums` of the parts of an image add up: Lovász sorts all of its pixels."""
        return "lovasz" not in self.losses

    @property
    def width(self) -> int:
        """How many numbers :meth:`sums` gives."""
        return sum(self._widths())

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """What of a batch adds up over a set, ``[width]``; see ``SetLoss``."""
        return self._sums(logits, target, len(target))

    def mean(self, sums: Tensor) -> Tensor:
        """The loss of a set from the :meth:`sums` of its batches.

        That of one batch of the whole set; but Lovász, which would need all pixels at once, is meaned over images.
        """
        parts = zip(self.losses.items(), torch.split(sums, self._widths()), strict=True)
        return torch.stack([share * _PARTS[name][1](part, self.weight) for (name, share), part in parts]).sum()

    def _sums(self, logits: Tensor, target: Tensor, images: int) -> Tensor:
        """:meth:`sums`; as one image, of all pixels of the batch together."""
        pixels = self._pixels(logits, target)
        return torch.cat([_PARTS[name][0](*pixels, self.weight, images) for name in self.losses])

    def _widths(self) -> list[int]:
        return [3 * len(self.weight) if name == "dice" else 2 for name in self.losses]

    def _pixels(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[N, C]`` and class ids ``[N]`` of all pixels, and which of them count ``[N]``.

        Pixels are weighted by 0 rather than picked out, which would wait for the device to count them.
        """
        valid = torch.ones_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            valid = target != self.ignore_index
        rows = logits.float().movedim(1, -1).flatten(0, -2)
        return rows, target.where(valid, 0).flatten(), valid.flatten()


def _lovasz(logits: Tensor, target: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """Lovász-Softmax, meaned over the classes present; arguments as of :func:`_weighted`."""
    probabilities, truth = _masked(logits, target, valid)
    errors, order = (truth - probabilities).abs().sort(dim=0, descending=True)  # ignored pixels: error 0, so last
    truth_sorted = truth.gather(0, order)
    covered = truth.sum(0) - truth_sorted.cumsum(0)
    union = truth.sum(0) + (1 - truth_sorted).cumsum(0)
    jaccard = 1 - covered / union.clamp(min=1e-9)
    steps = jaccard.diff(dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
    return _over_present((errors * steps).sum(0), truth.sum(0), weight)


def _weighted(
    logits: Tensor, target: Tensor, valid: Tensor, weight: Tensor, images: int = 1, focus: float = 0.0
) -> Tensor:
    """Weighted losses ``-(1 - p)^focus log p`` of all pixels and their weights, summed ``[2]``.

    Args:
        logits: ``[N, C]``.
        target: Class ids ``[N]``; any class where not valid.
        valid: Which pixels count ``[N]``.
        weight: Of each class ``[C]``.
        images: How many the pixels are of.
        focus: How much less pixels count that are right already.
    """
    log = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    share = weight[target] * valid
    return torch.stack([-(share * (1 - log.exp()) ** focus * log).sum(), share.sum()])


def _overlaps(logits: Tensor, target: Tensor, valid: Tensor, weight: Tensor, images: int = 1) -> Tensor:
    """Of each class what is found and true, what is found or true, and what is true, in pixels ``[3 * C]``."""
    probabilities, truth = _masked(logits, target, valid)
    return torch.cat([(probabilities * truth).sum(0), (probabilities + truth).sum(0), truth.sum(0)])


def _each_image(logits: Tensor, target: Tensor, valid: Tensor, weight: Tensor, images: int) -> Tensor:
    """Lovász of each image that has a pixel that counts, and their number, summed ``[2]``."""
    each = zip(logits.chunk(images), target.chunk(images), valid.chunk(images), strict=True)
    losses = torch.stack([_lovasz(*one, weight) for one in each])
    return torch.stack([losses.sum(), valid.view(images, -1).any(1).sum().float()])


def _ratio(sums: Tensor, weight: Tensor) -> Tensor:
    return sums[0] / sums[1].clamp(min=1e-9)


def _dice(sums: Tensor, weight: Tensor) -> Tensor:
    both, total, truth = sums.chunk(3)
    return _over_present(1 - 2 * both / total.clamp(min=1e-9), truth, weight)


def _masked(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    truth = nn.functional.one_hot(target, logits.shape[1]).to(logits.dtype)
    return logits.softmax(1) * valid[:, None], truth * valid[:, None]


def _over_present(per_class: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the classes of which ``truth`` counts a pixel."""
    share = weight * (truth > 0)
    return (share * per_class).sum() / share.sum().clamp(min=1e-9)


# What of the images of a batch adds up, and the loss that it makes.
_PARTS: dict[
    str, tuple[Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor], Callable[[Tensor, Tensor], Tensor]]
] = {
    "ce": (_weighted, _ratio),
    "dice": (_overlaps, _dice),
    "focal": (partial(_weighted, focus=_FOCUS), _ratio),
    "lovasz": (_each_image, _ratio),
}
