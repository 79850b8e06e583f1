"""What several processes of a run do together: tell each other something, and end."""

from __future__ import annotations

import gc
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """What each process gives, in the order of their ranks; all of them have to ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def leave_group() -> None:
    """End the group of processes while Python is whole.

    Lightning does so for NCCL, and for nothing else. A thread of gloo's that gives tensors back while Python ends
    aborts a process that has done all its work ("terminate called without an active exception").
    """
    gc.collect()  # what wrapped the model holds the group too
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() != "nccl":
        distributed.destroy_process_group()
