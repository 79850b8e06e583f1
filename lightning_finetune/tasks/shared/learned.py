"""What a task learns in a process that a Trainer started, brought to the process that asked for it."""

from __future__ import annotations

import multiprocessing
from typing import Any

_KEY = "lightning_finetune"


def carry_learned(task: Any) -> None:
    """Let what ``task`` has learned from its data travel with its weights out of spawned or forked processes.

    From them (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``) Lightning brings back the state dict and nothing else. A
    state dict has room beside the weights: the metadata that torch keeps for each module.
    """
    task.register_state_dict_post_hook(_put)
    task.register_load_state_dict_pre_hook(_take)


def _put(task: Any, state_dict: Any, prefix: str, metadata: dict[str, Any]) -> None:
    if multiprocessing.parent_process() is not None:
        metadata[_KEY] = task.learned()


def _take(task: Any, state_dict: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
    for name in task.learned().keys() & metadata.get(_KEY, {}).keys():
        setattr(task, name, metadata[_KEY][name])
