"""Constructor arguments: which a checkpoint can keep, and closed choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_finetune.errors import FinetuneError, did_you_mean

Choice = TypeVar("Choice", bound=str)


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that ``torch.load(weights_only=True)`` reads back: no modules, tensors or callables."""
    return {name: value for name, value in arguments.items() if _is_plain(value)}


def not_plain(arguments: Mapping[str, Any]) -> list[str]:
    """Names of the others: what ``save_hyperparameters`` must ignore."""
    return [name for name in arguments if name not in plain(arguments)]


def choose(name: str, value: Choice, choices: Iterable[str]) -> Choice:
    """``value`` if it is one of ``choices``.

    Raises:
        FinetuneError: It is not; names the argument and the choices.
    """
    known = list(choices)
    if value not in known:
        raise FinetuneError(f"Expected `{name}` to be one of {known}, got {value!r}.{did_you_mean(str(value), known)}")
    return value


def check_count(name: str, what: str, count: int | None) -> int:
    """``count``, if it is given.

    Args:
        name: Of the argument.
        what: Is counted.
        count: How many.

    Raises:
        FinetuneError: It is None or less than 1.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise FinetuneError(
            f"Expected `{name}`, the number of {what}, got {count}. Give it to the task, "
            f"{name}=data.num_classes; the command line takes it from the data."
        )
    return count


def check_class_weights(
    weights: Sequence[float] | None, num_classes: int, name: str = "class_weights"
) -> Tensor | None:
    """``weights`` as a tensor ``[num_classes]``.

    Raises:
        FinetuneError: There is not one non-negative number for each class.
    """
    if weights is None:
        return None
    tensor = torch.as_tensor(weights, dtype=torch.float32)
    if tensor.shape != (num_classes,) or not bool((tensor >= 0).all()):
        raise FinetuneError(
            f"Expected `{name}` to be {num_classes} numbers >= 0, one for each class, got {list(weights)}."
        )
    return tensor


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def unnamed(count: int) -> list[str]:
    """What classes are called until data names them."""
    return [str(number) for number in range(count)]
