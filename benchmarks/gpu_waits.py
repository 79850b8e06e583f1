"""Who waits for the device on the way of a training step?

On a GPU torch itself tells of each wait (``torch.cuda.set_sync_debug_mode``); on the CPU those are counted that read a
number from a tensor. Each is laid to the package whose code is the innermost: this one, or another.
"""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

import lightning_finetune

OURS = str(Path(lightning_finetune.__file__).parent)
OTHERS = (str(Path(pl.__file__).parents[1]),)
FIRST = 1  # batch from which an epoch is watched, up to its last but one: at the end what was kept is read


class Waits(Callback):
    """Watches the steps within each epoch.

    Args:
        device: ``"cuda"`` or ``"cpu"``.

    Attributes:
        steps: How many were watched.
        ours: Where code of this package waited: file, line and the line itself.
        others: Where other code did.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.steps = 0
        self.ours: list[str] = []
        self.others: list[str] = []
        self._mode: _Reads | None = None
        self._shown: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin, or count a step that was watched from here to here: also its data is on its way then."""
        if self._mode is not None:
            self.steps += 1
        if batch_idx == FIRST:
            self._begin()
        if batch_idx == trainer.num_training_batches - 1:
            self._end()

    def _begin(self) -> None:
        self._mode, self._shown = _Reads(self._note), warnings.showwarning
        if self.device == "cpu":
            self._mode.__enter__()
            return
        warnings.simplefilter("always")
        warnings.showwarning = self._told
        torch.cuda.set_sync_debug_mode("warn")

    def _end(self) -> None:
        if self._mode is None:
            return
        if self.device == "cpu":
            self._mode.__exit__(None, None, None)
        else:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = self._shown
            warnings.simplefilter("ignore")
        self._mode = None

    def _told(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing CUDA operation" in str(message):  # torch also says once that it may miss some
            self._note()

    def _note(self) -> None:
        name, is_ours = culprit()
        (self.ours if is_ours else self.others).append(name)


def culprit() -> tuple[str, bool]:
    """The innermost line of this package or of Lightning, and whether it is this package's."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith((OURS, *OTHERS)):
            is_ours = frame.filename.startswith(OURS)
            return f"{Path(frame.filename).name}:{frame.lineno} {frame.line}", is_ours
    return "unknown", False


class _Reads(TorchDispatchMode):
    """Calls ``note`` for each number that is read from a tensor."""

    def __init__(self, note: Any) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.note()
        return func(*args, **(kwargs or {}))
