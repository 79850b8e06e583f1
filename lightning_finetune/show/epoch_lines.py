"""The epochs of a run as a table: lines of a terminal of 80 columns, HTML of a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

MOST_METRICS = 4
"""What 80 columns hold beside epoch and time."""

Rows = Sequence[dict[str, float]]


def epoch_lines(rows: Rows, best: int | None) -> list[str]:
    """A line of names, then one for each row; the best ends with a star.

    Args:
        rows: ``epoch``, metrics by name, ``seconds``.
        best: The place of the best row.
    """
    names = _names(rows)[:MOST_METRICS]
    widths = [max(len(name), 8) for name in names]
    lines = ["  ".join(["epoch", *(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)), " time"])]
    for place, row in enumerate(rows):
        cells = [f"{_cell(row, name):>{width}}" for name, width in zip(names, widths, strict=True)]
        star = " *" if place == best else ""
        lines.append("  ".join([f"{row['epoch']:5.0f}", *cells, f"{_minutes(row['seconds']):>5}"]) + star)
    return lines


def epoch_html(rows: Rows, best: int | None, running: str = "") -> str:
    """All metrics of the rows as a table, the best row in bold, and ``running`` below."""
    names = _names(rows)
    cells = [[f"{row['epoch']:.0f}", *(_cell(row, name) for name in names), _minutes(row["seconds"])] for row in rows]
    return html_table(["epoch", *names, "time"], cells, best) + running


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """A table of words, the row at ``best`` in bold."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = ""
    for place, row in enumerate(rows):
        style = " style='font-weight: bold'" if place == best else ""
        body += f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def running_html(epoch: int, batches: int, total: float) -> str:
    """Progress within an epoch, which counts from 1."""
    known = total != math.inf
    bar = f"<progress value='{batches}' max='{total:.0f}'></progress> " if known else ""
    return f"<div>{bar}epoch {epoch}: {batches}{f' of {total:.0f}' if known else ''} batches</div>"


def _names(rows: Rows) -> list[str]:
    """The training loss, what validation measured, then the rest."""
    seen = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "seconds"))
    first = ("train_loss", "val_loss")
    return sorted(seen, key=lambda name: first.index(name) if name in first else 2 if name.startswith("val") else 3)


def _cell(row: dict[str, float], name: str) -> str:
    return f"{row[name]:.4f}" if name in row else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
