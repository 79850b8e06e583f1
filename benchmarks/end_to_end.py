"""How long until the same error? This package, fastai, and Lightning's own way, from the same weights and images.

    python benchmarks/end_to_end.py run DATA [--ways ours fastai backbone scheduler] [--seeds 3]
    python benchmarks/end_to_end.py table

DATA holds ``satellite``: 21 classes of land use, 1,343 training images, 128 px, batch 32, two workers. All start from
the packaged ImageNet weights of EfficientNet-Lite0 and train the head for three epochs at 3e-3, then all layers for
three:

- ``ours``: ``FineTune`` with the lessons' rates, 1e-5 to 9e-4 from the input to the head, as the command trains;
- ``fastai``: ``fit_one_cycle(3, 3e-3)``, ``unfreeze``, ``fit_one_cycle(3, slice(1e-5, 9e-4))`` on its own loaders;
- ``backbone``: Lightning's ``BackboneFinetuning`` with AdamW at 3e-3, then the backbone at a tenth of that; the loaders
  are this package's, as Lightning has none;
- ``scheduler``: finetuning-scheduler with two phases, AdamW at 3e-3, then everything at 9e-4; the same loaders.

Each run is a process of its own, whose memory (with its workers', shared pages divided) is read twice a second, and is
added to ``end_to_end.json``; one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_suffix(".json")
WAYS = ("ours", "fastai", "backbone", "scheduler")
BASE = "fastai"
EPOCHS = 3  # of each phase


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    run.add_argument("--seeds", type=int, default=3)
    one = commands.add_parser("one", help="a single run, in this process")
    one.add_argument("data", type=Path)
    one.add_argument("way", choices=WAYS)
    one.add_argument("seed", type=int)
    one.add_argument("--epochs", type=int, default=EPOCHS, help="of each phase")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        print(table(load()))
    elif options.command == "one":
        from end_to_end_ways import RUNS  # beside this file; imports what its way needs

        print("RESULT " + json.dumps(RUNS[options.way](options.data, options.seed, options.epochs)))
    else:
        for seed in range(options.seeds):
            for way in options.ways:
                run_once(options.data, way, seed)


def load() -> list[dict[str, Any]]:
    """The results so far."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def run_once(root: Path, way: str, seed: int) -> None:
    """Train in a process of its own, watch its memory, and keep the result, unless it is kept already."""
    if any((row["way"], row["seed"]) == (way, seed) for row in load()):
        return
    command = [sys.executable, __file__, "one", str(root), way, str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(pss, family(process.pid))))
        time.sleep(0.5)
    output = process.stdout.read() if process.stdout else ""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if process.returncode or not lines:
        raise SystemExit(f"failed, run it alone to see why: {' '.join(command)}")
    row = {"way": way, "seed": seed, "peak_mb": round(peak), **json.loads(lines[0].removeprefix("RESULT "))}
    rows = [*load(), row]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(row, flush=True)


def family(pid: int) -> list[int]:
    """A process and all that it started; Linux only."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        below = [int(child) for child in children.read_text().split()]
    except OSError:
        return []
    return [pid, *(other for child in below for other in family(child))]


def pss(pid: int) -> float:
    """Megabytes of a process, pages that it shares divided among those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def reached(row: dict[str, Any], error: float) -> float:
    """Seconds until a run's validation error was at most ``error``; infinity where it never was."""
    return next((seconds for seconds, found in row["timeline"] if found <= error), float("inf"))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, each run against fastai's of the same seed, in Markdown."""
    by_way: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_way[row["way"]][row["seed"]] = row
    base = by_way[BASE]
    lines = [
        "| | error | time | time to fastai's error, of fastai's | images/s, all layers | memory |",
        "|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        runs = by_way[way]
        if not runs:
            continue
        errors = [row["timeline"][-1][1] for row in runs.values()]
        shares = [reached(row, base[s]["timeline"][-1][1]) / base[s]["timeline"][-1][0] for s, row in runs.items()]
        lines.append(
            f"| {way} | {statistics.fmean(errors):.4f} ({', '.join(f'{error:.4f}' for error in errors)}) "
            f"| {statistics.fmean(row['timeline'][-1][0] for row in runs.values()):.0f} s "
            f"| {', '.join('never' if share == float('inf') else f'{share:.2f}' for share in shares)} "
            f"| {statistics.fmean(row['rate'] for row in runs.values()):.1f} "
            f"| {statistics.fmean(row['peak_mb'] for row in runs.values() if 'peak_mb' in row):.0f} MB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
