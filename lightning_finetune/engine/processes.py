"""The end of a run of several processes."""

from __future__ import annotations

import gc

from torch import distributed


def leave_group() -> None:
    """End the group of processes while Python is whole.

    Lightning does so for NCCL, and for nothing else. A thread of gloo's that gives tensors back while Python ends
    aborts a process that has done all its work ("terminate called without an active exception").
    """
    gc.collect()  # what wrapped the model holds the group too
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() != "nccl":
        distributed.destroy_process_group()
