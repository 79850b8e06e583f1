"""From a checkpoint to a task that predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_finetune.errors import CheckpointError, did_you_mean, first_ten
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.networks.weights import read_file
from lightning_finetune.tasks.shared.record import accepted_arguments, read_record

LARGEST = 8192
"""Pixels of a side up to which images are made at the size that a record says: 800 MB each."""


def load(checkpoint: str | Path, *, model: nn.Module | None = None) -> Any:
    """A task as it was when the checkpoint was written, in eval mode: ``load("best.ckpt").predict("photo.jpg")``.

    The file is read with ``weights_only=True``: nothing in it is executed, and no network is asked. Loss, metrics and
    optimizer that were given as objects are not kept; the task has the defaults in their place.

    Args:
        checkpoint: A file that Lightning wrote while one of the tasks trained.
        model: The module that the task was built with, where that was not a name; its weights are replaced.

    Returns:
        An instance of the task's class, e.g. :class:`~lightning_finetune.ImageClassifier`.

    Raises:
        CheckpointError: No checkpoint of a task, a damaged one, or one that needs ``model``.
    """
    origin = str(checkpoint)
    content = read_file(checkpoint)
    record = read_record(content, origin)
    cls = _task_class(record["task"], origin)
    _check_record(record, content["state_dict"], cls.counted[0], origin)
    task = _build(cls, accepted_arguments(cls, record["arguments"]), model, origin)
    _fill(task, content["state_dict"], origin)
    task.on_load_checkpoint(content)
    epoch = content.get("epoch")
    task.origin = Path(checkpoint).name + (f", after epoch {epoch + 1}" if isinstance(epoch, int) else "")
    return task.eval()


def _task_class(name: str, origin: str) -> type[BaseTask]:
    known = BaseTask.known()
    if name not in known:
        raise CheckpointError(
            f"{origin}: a checkpoint of {name!r}, which is not imported.{did_you_mean(name, known)} "
            f"Import the module that defines it before loading."
        )
    return known[name]


def _build(cls: type[BaseTask], arguments: dict[str, Any], model: nn.Module | None, origin: str) -> BaseTask:
    if "model" not in arguments and model is None:
        raise CheckpointError(
            f"{origin}: {cls.__name__} was built with a module of yours, which a checkpoint cannot hold. "
            f"Give it: load({origin!r}, model=my_module)."
        )
    if model is not None:
        arguments = {**arguments, "model": model}
    _check_local(arguments, origin)
    try:
        return cls(**arguments, weights=False)
    except Exception as error:  # of arguments that no task wrote, torch and timm raise whatever they trip over
        raise CheckpointError(f"{origin}: {cls.__name__} cannot be rebuilt from its record: {error}") from error


def _fill(task: BaseTask, state_dict: dict[str, Any], origin: str) -> None:
    """Load all but the weights of the loss: of one that was given as an object they have no place to go."""
    kept = {name: value for name, value in state_dict.items() if not str(name).startswith("criterion.")}
    try:
        missing, extra = task.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{origin}: weights of other shapes than the model's. {error}") from error
    missing = [name for name in missing if not name.startswith("criterion.")]
    if missing or extra:
        raise CheckpointError(
            f"{origin}: the weights are not those of the model that the record describes. "
            f"Missing:{first_ten(missing)}\nNot in the model:{first_ten(extra)}"
        )


def _check_record(record: Mapping[str, Any], state_dict: Mapping[Any, Any], counted: str, origin: str) -> None:
    """Check all that a task is rebuilt from: nothing in it may take more memory than the file, or ask a model hub.

    A file may be damaged, or somebody's who means harm.

    Args:
        record: Of a checkpoint.
        state_dict: Of the same.
        counted: The task's argument that says how many outputs there are.
        origin: Names the file in an error.

    Raises:
        CheckpointError: It cannot be what a task wrote.
    """
    arguments = record["arguments"]
    parts = _of_weights(state_dict), _of_arguments(arguments, state_dict, counted), _of_learned(record, counted)
    wrong = next(chain(*parts), None)
    if wrong is not None:
        raise CheckpointError(
            f"{origin}: the checkpoint's record cannot be right: {wrong}. Take another copy of the file."
        )


def _check_local(arguments: Mapping[str, Any], origin: str) -> None:
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


def _of_arguments(arguments: Mapping[str, Any], state_dict: Mapping[Any, Any], counted: str) -> Iterator[str]:
    """Counts that have no weights in the file would be made up at random, as many as are asked for."""
    tensors = (tensor for tensor in state_dict.values() if isinstance(tensor, Tensor))
    largest = max((size for tensor in tensors for size in tensor.shape), default=1)
    for name in (counted, "in_channels"):
        count = arguments.get(name, 1)
        if type(count) is not int or not 1 <= count <= largest:
            yield f"{name} is {count!r}, and no weights are of that size"


def _of_learned(record: Mapping[str, Any], counted: str) -> Iterator[str]:
    classes, count = record["classes"], record["arguments"].get(counted)
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
