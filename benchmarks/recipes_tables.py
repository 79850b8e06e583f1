"""Tables of the rows of ``recipes.py``, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from recipes_statistics import LEVEL, Array, Ratio, compare, holm  # beside this file

OURS = "ours"
EPOCHS = 8
"""Of ours."""
OWN = ("ours", "find", "lessons")
"""Ways that are no peers, as they are this package's."""

Row = dict[str, Any]
Cell = tuple[str, int]
"""A set, with the size of its training part, and a fold."""
Index = dict[str, dict[Cell, Row]]


def by_way(rows: Sequence[Row]) -> Index:
    """The row of each way and cell."""
    index: Index = defaultdict(dict)
    for row in rows:
        index[row["way"]][row["set"], row["fold"]] = row
    return index


def equal_seconds(rows: Sequence[Row]) -> list[Row]:
    """Ours of eight epochs, and of each other way on each set the number of epochs that takes nearly as long.

    The seconds are those of the whole way on the set, in the mean over its folds.
    """
    spent: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in rows:
        spent[row["way"], row["set"], row["epochs"]].append(row["cpu"][-1])
    chosen: dict[tuple[str, str], int] = {}
    for way, name, _ in spent:
        aim = statistics.fmean(spent.get((OURS, name, EPOCHS), [math.inf]))
        far = {n: abs(statistics.fmean(found) - aim) for (w, s, n), found in spent.items() if (w, s) == (way, name)}
        chosen[way, name] = EPOCHS if way == OURS else min(far, key=lambda n: far[n])
    return [row for row in rows if row["epochs"] == chosen[row["way"], row["set"]]]


def per_set(rows: Sequence[Row]) -> str:
    """Mean error of each way on each set; where ours is significantly better (+) or worse (-)."""
    index = by_way(rows)
    sets = list(dict.fromkeys(row["set"] for row in rows))
    verdicts = judge(index, sets)
    lines = [f"| set | folds | {' | '.join(index)} |", "|---" * (len(index) + 2) + "|"]
    for name in sets:
        folds = [{fold for at, fold in cells if at == name} for cells in index.values()]
        errors = [[row["error"] for (at, _), row in cells.items() if at == name] for cells in index.values()]
        shown = [
            f"{statistics.fmean(found):.3f}{verdicts.get((way, name), '')}{'' if here == max(folds, key=len) else ' †'}"
            if found
            else "not run"
            for way, found, here in zip(index, errors, folds, strict=True)
        ]
        lines.append(f"| {name} | {len(max(folds, key=len))} | {' | '.join(shown)} |")
    notes = f"+: ours has significantly less error, -: more (p < {LEVEL} after Holm, {len(verdicts)} comparisons)"
    return "\n".join([*lines, "", f"{notes}; †: fewer folds."])


def judge(index: Index, sets: Sequence[str]) -> dict[tuple[str, str], str]:
    """For each other way and set " +", " -" or "", over the folds that both have, corrected for all of them."""
    found: dict[tuple[str, str], Ratio] = {}
    for way in index:
        for name in sets:
            cells = [cell for cell in index[way] if cell[0] == name and cell in index.get(OURS, {})]
            if way != OURS and cells:
                found[way, name] = compare(pairs(index, way, cells))
    adjusted = holm([ratio.p for ratio in found.values()])
    return {
        key: "" if p >= LEVEL else " +" if ratio.ratio < 1 else " -"
        for (key, ratio), p in zip(found.items(), adjusted, strict=True)
    }


def overall(rows: Sequence[Row]) -> str:
    """Ours against each other way, over the sets and folds that all of them have."""
    index = by_way(rows)
    cells = sorted(set.intersection(*(set(found) for found in index.values()))) if OURS in index else []
    if not cells:
        return "No set and fold has a row of each way, ours among them; choose fewer with --ways."
    ratios = {way: compare(pairs(index, way, cells)) for way in index if way != OURS}
    adjusted = holm([ratio.p for ratio in ratios.values()])
    lines = ["| ours against | errors | 95 % | p, Holm | seconds | sets with less error |", "|---|---|---|---|---|---|"]
    for (way, ratio), p in zip(ratios.items(), adjusted, strict=True):
        lines.append(
            f"| {way} | {ratio.ratio:.2f} | {ratio.low:.2f} to {ratio.high:.2f} | {p:.4f} "
            f"| {seconds(index, way, cells):.2f} | {wins(index, way, cells)} |"
        )
    peers = [way for way in ratios if way not in OWN]
    best = max(peers, key=lambda way: ratios[way].ratio, default=None)
    folds = len({fold for _, fold in cells})
    said = f"Over {len({name for name, _ in cells})} sets, {len(cells)} runs of each way, folds: {folds}."
    return "\n".join([*lines, "", f"{said} The best single peer over all sets: {best}."])


def pairs(index: Index, way: str, cells: Sequence[Cell]) -> list[Array]:
    """Errors ``[images, sizes, 2]`` of ours and another way, a set each, all sizes of its training part together."""
    sets: dict[str, list[Cell]] = defaultdict(list)
    for name, fold in cells:
        sets[name.partition("-")[0]].append((name, fold))
    made = []
    for members in sets.values():
        sizes = sorted({name for name, _ in members})
        starts, images = {}, 0
        for fold in sorted({fold for _, fold in members}):
            starts[fold] = images
            images += next(index[OURS][cell]["valid"] for cell in members if cell[1] == fold)
        errors = np.full((images, len(sizes), 2), np.nan)
        for name, fold in members:
            for place, row in enumerate((index[OURS][name, fold], index[way][name, fold])):
                errors[starts[fold] : starts[fold] + row["valid"], sizes.index(name), place] = image_errors(row)
        made.append(errors)
    return made


def image_errors(row: Row) -> Array:
    """The error of each image that judged."""
    if "by_image" in row:
        return np.array(row["by_image"], float)
    errors = np.zeros(row["valid"])
    errors[row["wrong"]] = 1
    return errors


def seconds(index: Index, way: str, cells: Sequence[Cell]) -> float:
    """Seconds of the processor of ours over those of another way, geometric mean."""
    logs = [math.log(index[OURS][cell]["cpu"][-1] / index[way][cell]["cpu"][-1]) for cell in cells]
    return math.exp(statistics.fmean(logs))


def costs(rows: Sequence[Row]) -> str:
    """Means over the runs of each way: time, images a second in the last epoch, validation left out, and memory."""
    lines = ["| way | runs | seconds | images/s, last epoch | memory |", "|---|---|---|---|---|"]
    for way, cells in by_way(rows).items():
        runs = list(cells.values())
        total, rate, memory = (
            statistics.fmean(found)
            for found in (
                [row["cpu"][-1] for row in runs],
                [row["train"] // row["batch"] * row["batch"] / row["training"][-1] for row in runs],
                [row["memory_mb"] for row in runs],
            )
        )
        lines.append(f"| {way} | {len(runs)} | {total:.0f} s | {rate:.0f} | {memory:.0f} MB |")
    return "\n".join(lines)


def wins(index: Index, way: str, cells: Sequence[Cell]) -> str:
    """On how many of the sets ours has less error than another way, in the mean over folds."""
    sums: dict[str, float] = defaultdict(float)
    for cell in cells:
        sums[cell[0]] += index[OURS][cell]["error"] - index[way][cell]["error"]
    return f"{sum(total < 0 for total in sums.values())} of {len(sums)}"
