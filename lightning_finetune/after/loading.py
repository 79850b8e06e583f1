"""From a checkpoint to a task that predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lightning_finetune.errors import CheckpointError, did_you_mean, first_ten
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.networks.weights import read_file
from lightning_finetune.tasks.shared.record import accepted_arguments, read_record
from lightning_finetune.tasks.shared.record_check import check_local, check_record


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
    check_record(record, content["state_dict"], origin)
    cls = _task_class(record["task"], origin)
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
    check_local(arguments, origin)
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
