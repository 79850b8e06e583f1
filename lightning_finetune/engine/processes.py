"""What several processes of a run do together: share the machine, tell each other something, and end."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import distributed
from torch.utils.hooks import RemovableHandle

T = TypeVar("T")


def readers(processes: int = 1) -> int:
    """How many read images at a time: one for each CPU core of this process, at most 8.

    Args:
        processes: That share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // processes))


def gathered(value: T) -> list[T]:
    """What each process gives, in the order of their ranks; all of them have to ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def bring_back(
    module: Any, key: str, told: Callable[[Any], Any], hear: Callable[[Any, Any], None]
) -> tuple[RemovableHandle, RemovableHandle]:
    """Let what is known beside weights travel with those of ``module`` out of spawned or forked processes.

    From them (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``) Lightning brings back the state dict and nothing else. A
    state dict has room beside the weights: the metadata that torch keeps for each module.

    Args:
        module: Any ``nn.Module``.
        key: Of the metadata.
        told: From the module there to what is known.
        hear: Is given the module here, and that.

    Returns:
        What ends it.
    """
    put = module.register_state_dict_post_hook(partial(_put, key, told))
    return put, module.register_load_state_dict_pre_hook(partial(_take, key, hear))


def _put(
    key: str, told: Callable[[Any], Any], module: Any, state_dict: Any, prefix: str, metadata: dict[str, Any]
) -> None:
    if multiprocessing.parent_process() is not None:
        metadata[key] = told(module)


def _take(
    key: str, hear: Callable[[Any, Any], None], module: Any, state: Any, prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    if key in metadata:
        hear(module, metadata[key])


def leave_group() -> None:
    """End the group of processes while Python is whole.

    Lightning does so for NCCL, and for nothing else. A thread of gloo's that gives tensors back while Python ends
    aborts a process that has done all its work ("terminate called without an active exception").
    """
    gc.collect()  # what wrapped the model holds the group too
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() != "nccl":
        distributed.destroy_process_group()
