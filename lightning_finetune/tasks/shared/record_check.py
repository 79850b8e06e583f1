"""Whether a checkpoint's record can be believed: it may be damaged, or somebody's who means harm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from lightning_finetune.errors import CheckpointError

LARGEST = 8192
"""Pixels of a side up to which images are made at the size that a record says: 800 MB each."""

_COUNTS = ("num_classes", "num_outputs")
"""Arguments of tasks that say how many outputs there are."""


def check_record(record: Mapping[str, Any], state_dict: Mapping[Any, Any], origin: str) -> None:
    """Check all that a task is rebuilt from: nothing in it may take more memory than the file, or ask a model hub.

    Args:
        record: Of a checkpoint.
        state_dict: Of the same.
        origin: Names the file in an error.

    Raises:
        CheckpointError: It cannot be what a task wrote.
    """
    wrong = next(chain(_of_weights(state_dict), _of_arguments(record, state_dict), _of_learned(record)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{origin}: the checkpoint's record cannot be right: {wrong}. Take another copy of the file."
        )


def check_local(arguments: Mapping[str, Any], origin: str) -> None:
    """Check that no model is named that would be looked for on a hub.

    Raises:
        CheckpointError: One is.
    """
    for name in ("model", "backbone"):
        value = arguments.get(name)
        if isinstance(value, str) and ":" in value:
            raise CheckpointError(
                f"{origin}: its `{name}` is {value!r}, which a model hub would be asked for, and load() never asks "
                f"one. Build the module yourself and give it: load({origin!r}, model=module)."
            )


def _of_weights(state_dict: Mapping[Any, Any]) -> Iterator[str]:
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            yield f"{name!r} is no tensor"
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            yield f"{name!r} is larger than what the file holds of it"


def _of_arguments(record: Mapping[str, Any], state_dict: Mapping[Any, Any]) -> Iterator[str]:
    """Counts that have no weights in the file would be made up at random, as many as are asked for."""
    tensors = (tensor for tensor in state_dict.values() if isinstance(tensor, Tensor))
    largest = max((size for tensor in tensors for size in tensor.shape), default=1)
    for name in (*_COUNTS, "in_channels"):
        count = record["arguments"].get(name, 1)
        if type(count) is not int or not 1 <= count <= largest:
            yield f"{name} is {count!r}, and no weights are of that size"


def _of_learned(record: Mapping[str, Any]) -> Iterator[str]:
    classes = record["classes"]
    count = next((record["arguments"][name] for name in _COUNTS if name in record["arguments"]), None)
    if not all(type(name) is str for name in classes) or (count is not None and len(classes) < count):
        yield f"`classes` are {len(classes)} names of {count} classes"
    thresholds = record.get("thresholds")
    if thresholds is not None and not (_numbers(thresholds, 0, 1) and len(thresholds) == len(classes)):
        yield "`thresholds` are not one number of 0 to 1 for each label"
    preprocessing = record.get("preprocessing")
    if isinstance(preprocessing, Mapping):
        yield from _of_preprocessing(preprocessing)
    elif preprocessing is not None:
        yield "`preprocessing` is no dict"


def _of_preprocessing(given: Mapping[str, Any]) -> Iterator[str]:
    """What is there must be of use; a data module of somebody else may say less."""
    size, channels = given.get("size"), given.get("channels", 3)
    if size is not None and not (_numbers(size, 1, LARGEST) and [type(side) for side in size] == [int, int]):
        yield f"`preprocessing` has the size {str(size)[:50]}, where two sides of 1 to {LARGEST} pixels were expected"
    if type(channels) is not int or channels < 1:
        yield f"`preprocessing` has {channels!r} channels"
    for name, least in (("mean", -math.inf), ("std", 1e-12)):
        if name in given and not (_numbers(given[name], least, math.inf) and len(given[name]) == channels):
            yield f"`preprocessing` has no {name} for each of {channels} channels"
    if given.get("resize", "crop") not in ("crop", "squish"):
        yield f"`preprocessing` has the resize {given['resize']!r}"
    white = given.get("white")
    if white is not None and not _numbers([white], 1e-12, math.inf):
        yield f"`preprocessing` has the white {white!r}"


def _numbers(values: Any, least: float, largest: float) -> bool:
    """Whether these are finite numbers in a range."""
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        return False
    kinds = all(type(value) in (int, float) for value in values)
    return kinds and all(math.isfinite(value) and least <= value <= largest for value in values)
