"""The record that a task leaves in its checkpoints, from which it is rebuilt without the code that trained it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_finetune.errors import CheckpointError
from lightning_finetune.tasks.shared.arguments import plain

KEY = "lightning_finetune"
VERSION = 1

# What says how a task was trained, and is not needed to rebuild it for use.
_TRAINING_ONLY = frozenset({"weights", "optimizer", "metrics"})


def make_record(task: str, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A record of plain values.

    Args:
        task: Name of its class.
        arguments: Of its constructor; those that are not plain are left out.
        state: What it learned from the data beside weights: class names, preprocessing, thresholds.
    """
    given = {name: value for name, value in plain(arguments).items() if name not in _TRAINING_ONLY}
    kept = {name: value for name, value in given.items() if not _is_of_command_line(name, value)}
    return {"version": VERSION, "task": task, "arguments": kept, **state}


def read_record(content: Any, origin: str) -> dict[str, Any]:
    """The record in a checkpoint's content.

    Args:
        content: What the file held.
        origin: Names the file in an error.

    Raises:
        CheckpointError: There is none, it is damaged, or it is of a later version.
    """
    record = content.get(KEY) if isinstance(content, Mapping) else None
    if record is None or "state_dict" not in content:
        has = f"the keys {sorted(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{origin}: expected a checkpoint that a task of lightning_finetune wrote, got {has}. "
            f"Bare weights can start a task: weights={origin!r}."
        )
    version = record.get("version") if isinstance(record, Mapping) else None
    if type(version) is int and version > VERSION:
        raise CheckpointError(
            f"{origin}: written by a later lightning_finetune (format {version}, this one reads up to {VERSION}). "
            "Upgrade the package."
        )
    types = {"version": int, "task": str, "arguments": dict, "classes": list}
    sound = isinstance(record, Mapping) and all(type(record.get(name)) is kind for name, kind in types.items())
    if not sound or not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(f"{origin}: the checkpoint's record is damaged. Take another copy of the file.")
    return dict(record)


def accepted_arguments(task: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that the constructor of ``task`` takes."""
    parameters = inspect.signature(task).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in arguments.items() if name in names}


def _is_of_command_line(name: str, value: Any) -> bool:
    """Whether LightningCLI left it: a note of its own, or the configuration that an object was made from."""
    return name.startswith("_") or (isinstance(value, Mapping) and "class_path" in value)


def check_weights(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Say in one sentence what torch says tensor by tensor.

    Raises:
        CheckpointError: Weights are missing from ``given``, or have other shapes than ``own``.
    """
    shapes = {name: list(value.shape) for name, value in own.items()}
    others = {name: list(given[name].shape) if name in given else "nothing" for name in shapes}
    wrong = [name for name, shape in shapes.items() if others[name] != shape]
    if wrong:
        raise CheckpointError(
            f"Expected a checkpoint of this model, got one with other weights: {wrong[0]} is {others[wrong[0]]} there "
            f"and {shapes[wrong[0]]} here, as are {len(wrong) - 1} more. Take that model, data of as many classes, "
            "or start without a checkpoint."
        )
