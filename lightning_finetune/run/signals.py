"""Signals that wait for a moment from which a run resumes to the same bits, the same in all processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

OTHERS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)
"""Those that SLURM may be told to send before it requeues a job, where the system has them."""

HELD: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, *OTHERS)
"""In this order processes tell each other which of them they got."""


class HeldSignals:
    """Keeps signals from their handlers until they are let through.

    A second Ctrl-C is not kept.
    """

    def __init__(self) -> None:
        self._got: set[int] = set()
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def hold(self) -> None:
        """From now on keep those that would call a handler: Python's, Lightning's, the user's."""
        self._got.clear()
        if threading.current_thread() is threading.main_thread():
            for number in HELD:
                handler = signal.getsignal(number)
                if callable(handler):  # a signal that is ignored, or kills, goes on to do so
                    self._before[number] = handler
                    signal.signal(number, self._keep)

    def release(self) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def agreed(self, trainer: pl.Trainer) -> set[int]:
        """Which signals any of the processes got; all processes ask at the same moment."""
        if trainer.world_size == 1:
            return set(self._got)
        got = torch.tensor([float(number in self._got) for number in HELD], device=trainer.strategy.root_device)
        counts: torch.Tensor = trainer.strategy.reduce(got, reduce_op="sum")
        return {number for number, count in zip(HELD, counts.tolist(), strict=True) if count}

    def let_through(self, number: int) -> None:
        """Call the handler of a signal that was kept, here or in another process."""
        self._got.discard(number)
        if number in self._before:
            self._before[number](number, None)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._got.add(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before.pop(number))
