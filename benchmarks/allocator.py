"""What it is worth to keep freed memory: a training step on the CPU with glibc's own way, and with ours.

    python benchmarks/allocator.py [--sizes 64 128 224] [--rounds 3] [--out FILE.json]

EfficientNet-Lite0, all layers, batch 32, AdamW, random images. Each number is a process of its own, because the setting
is for good; they take turns, and the median ratio counts. Beside it the page faults of a step and the most memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch

from lightning_finetune.engine.allocator import keep_freed

STEPS, WARM = 12, 4


def measure(size: int, keeps: bool) -> dict[str, float]:
    """Milliseconds and page faults of a step, and the most memory in MB."""
    if keeps:
        keep_freed()
    model = timm.create_model("tf_efficientnet_lite0", num_classes=21).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images = torch.randn(32, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 21, (32,))
    seconds, faults = [], []
    for _ in range(STEPS):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {
        "ms": 1000 * statistics.median(seconds[WARM:]),
        "faults": statistics.median(faults[WARM:]),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def child(size: int, keeps: bool) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--child", str(size), str(int(keeps))]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    """Measure, print rows of a table, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=int, nargs=2, help="used by this program itself")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], bool(options.child[1]))))
        return
    print("| size | glibc's way | page faults a step | memory | kept | page faults | memory | time of the first |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        rounds = [[child(size, keeps) for keeps in (False, True)] for _ in range(options.rounds)]
        ratio = statistics.median(kept["ms"] / usual["ms"] for usual, kept in rounds)
        rows.append({"size": size, "rounds": rounds, "ratio": ratio})
        cells = []
        for ways in zip(*rounds, strict=True):
            ms, faults, mb = (statistics.median(way[name] for way in ways) for name in ("ms", "faults", "mb"))
            cells.append(f"{ms:.0f} ms | {faults:,.0f} | {mb:,.0f} MB")
        print(f"| {size} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
