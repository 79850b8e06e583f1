"""What the parts of ``gpu.py`` share: where they run, how long they may take, and rows that are saved as they come."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import timm
import torch
from gpu import BEGUN  # beside this file

import lightning_finetune

WORKERS = 16


class Part:
    """Rows of one part.

    Args:
        name: Of the part.
        data: Holds ``satellite`` and ``camvid``.
        out: Folder of ``gpu_NAME.json``.
        until: When no further row may begin, and one that has begun is given up, on ``time.monotonic()``.
        small: Whether the smallest form is asked for, which shows that the script works and measures nothing.

    Attributes:
        device: ``"cuda"``, or ``"cpu"`` where there is none.
        complete: Whether no row has failed or was left out.
        workers: Processes that load: 16, if each has a core.
    """

    def __init__(self, name: str, data: Path, out: Path, until: float, small: bool) -> None:
        self.name, self.data, self.small, self.until = name, data.resolve(), small, until
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.complete = True
        self.workers = min(2 if small else WORKERS, len(os.sched_getaffinity(0)))
        self.rows: list[dict[str, Any]] = []
        self._file = out / f"gpu_{name}.json"
        self._save()
        print(f"\n{name} on {self.card}, workers: {self.workers}\n\n| what | outcome | s | found |")
        print("|---|---|---|---|", flush=True)

    @property
    def card(self) -> str:
        """The device's own name."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "the CPU"

    @property
    def left(self) -> float:
        """Seconds in which a row may still begin."""
        return self.until - time.monotonic()

    def row(
        self, name: str, measure: Callable[[], Mapping[str, Any]], needs: float = 0.0, so_far: Mapping[str, Any] = {}
    ) -> Mapping[str, Any]:
        """Measure, print and save a row; what fails, or does not end in time, is one too.

        Args:
            name: Of the row.
            measure: Gives numbers and words by name.
            needs: Seconds that it will take about.
            so_far: What ``measure`` fills as it goes on, which is kept where it fails.

        Returns:
            What was found; nothing if it failed or was left out.
        """
        start, found, trace = time.monotonic(), {}, []
        self.rows.append({"name": name, "outcome": BEGUN})
        self._save()
        if self.left < needs or self.left <= 0:
            outcome = f"skipped: {max(self.left, 0):.0f} s are left"
        else:
            try:
                with redirect_stdout(io.StringIO()), ended_after(self.left):  # plans and results of each run
                    found, outcome = dict(measure()), "ok"
            except Exception as error:  # whatever it is, the next row is tried
                outcome = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
                trace = traceback.format_exc().splitlines()
        shown, seconds = found or dict(so_far), round(time.monotonic() - start, 1)
        self.complete &= outcome == "ok"
        self.rows[-1] = {"name": name, "outcome": outcome, "seconds": seconds, **shown, "trace": trace}
        print(f"| {name} | {outcome} | {seconds} | {in_words(shown)} |", flush=True)
        self._save()
        return found

    def _save(self) -> None:
        modules = {"torch": torch, "lightning": pl, "timm": timm, "lightning_finetune": lightning_finetune}
        versions = {name: module.__version__ for name, module in modules.items()}
        about = {"part": self.name, "device": self.card, "small": self.small, "cuda": torch.version.cuda}
        about |= {**versions, "package": lightning_finetune.__file__, "python": platform.python_version()}
        about |= {"cores": len(os.sched_getaffinity(0)), "workers": self.workers}
        self._file.write_text(json.dumps({**about, "rows": self.rows}, indent=1))


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raise a ``TimeoutError`` in what takes longer, so that there is time to save what it has found."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done in the {seconds:.0f} s that were left")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_words(found: Mapping[str, Any]) -> str:
    """Numbers short, all with their names."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
