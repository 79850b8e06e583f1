"""What a training step costs beside a plain loop of PyTorch, on a GPU: the third part of ``gpu.py``.

As ``overhead.py`` measures it on the CPU: a network so small that the host, not the device, decides how long a step
takes. The milliseconds are those of the host, which on a GPU runs ahead where nothing makes it wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import overhead  # beside this file
import torch

if TYPE_CHECKING:
    from gpu_part import Part


def run(part: Part) -> None:
    """A row of times for each round, and at the end one for each way."""
    torch.set_num_threads(1)
    rounds, steps = (1, overhead.WARM + 10) if part.small else (5, 400)
    times: dict[str, list[float]] = {name: [] for name in overhead.WAYS}
    for number in range(rounds):
        found = part.row(f"round {number + 1}, ms", lambda: one_round(steps, part.device), needs=10)
        for name, milliseconds in found.items():
            times[name].append(milliseconds)
    if not all(times.values()):
        return
    for name, row in overhead.compare(times, part.device).items():
        part.row(name, lambda row=row: row)  # type: ignore[misc]


def one_round(steps: int, device: str) -> dict[str, float]:
    """Milliseconds a step of each way."""
    return {name: own[0] for name, own in overhead.time_rounds(1, steps, device).items()}
