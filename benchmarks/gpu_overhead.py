"""What a training step costs beside a plain loop of PyTorch, on a GPU: the third part of ``gpu.py``.

As ``overhead.py`` measures it on the CPU: a network so small that the host, not the device, decides how long a step
takes. The milliseconds are those of the host, which on a GPU runs ahead where nothing makes it wait.
"""

from __future__ import annotations

from functools import partial
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
        measure = partial(overhead.time_round, number, steps, part.device)
        for name, milliseconds in part.row(f"round {number + 1}, ms", measure, needs=10).items():
            times[name].append(milliseconds)
    for name in overhead.WAYS:
        part.row(name, partial(overhead.compare, name, times, part.device))
