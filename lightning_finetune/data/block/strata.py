"""Random draws that leave every label its share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lightning_finetune.data.pixels.draws import Ints


def stratified(order: Ints, labels: Sequence[Sequence[str]], number: int) -> list[int]:
    """Draw items so that each label has about the share in them that it has in all.

    An item of several labels counts for its rarest one. An item stays that is the last with one of its labels, even if
    fewer than ``number`` are drawn then; but one is drawn in any case.

    Args:
        order: Of the items, at random; all that the draw depends on besides the labels.
        labels: Of each item; none is a kind of its own.
        number: How many items to draw.

    Returns:
        The positions of those drawn.
    """
    left = Counter(name for names in labels for name in set(names))
    strata = [min(names, key=lambda name: (left[name], name), default="") for names in labels]
    drawn: list[int] = []
    for item in _by_quota(order, strata, number):
        if len(drawn) == number:
            break
        names = set(labels[item])
        if all(left[name] > 1 for name in names):
            drawn.append(item)
            left.subtract(names)
    return drawn or order[:1].tolist()


def _by_quota(order: Ints, strata: Sequence[str], number: int) -> list[int]:
    """The items in ``order``, first those within the quota of their stratum."""
    quota = _quotas([strata[item] for item in order.tolist()], number)
    within: list[int] = []
    beyond: list[int] = []
    for item in order.tolist():
        quota[strata[item]] -= 1
        (within if quota[strata[item]] >= 0 else beyond).append(item)
    return within + beyond


def _quotas(strata: Sequence[str], number: int) -> Counter[str]:
    """How many of ``number`` belong to each stratum by the largest remainders; of equal ones to the first met."""
    sizes = Counter(strata)  # in the order in which they are met
    shares = np.array([*sizes.values()]) * number
    quotas, rest = np.divmod(shares, len(strata))
    quotas[np.argsort(-rest, kind="stable")[: number - quotas.sum()]] += 1
    return Counter(dict(zip(sizes, quotas.tolist(), strict=True)))
