"""One figure of a range test: the losses over the rate, every suggestion, and the rates that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_finetune.engine.range_test import DIVIDED, SKIP_END, Curve, scaled

_RAW, _SMOOTH, _CHOSEN = "#bbbbbb", "#4477aa", "#ccbb44"
_COLOURS = {"steep": "#cc3311", "valley": "#228833", "slide": "#aa3377", "minimum": "#66ccee", "elbow": "#ee7733"}


def draw_curve(curve: Curve, chosen: Sequence[float] = ()) -> Figure:
    """Raw and smoothed loss over the logarithm of the rate; a dot at each suggestion, the chosen rates shaded.

    Args:
        curve: With its suggestions.
        chosen: A rate, or the lower and the upper one of a slice.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panel = figure.subplots()
    lrs, smoothed = np.asarray(curve.lrs), np.asarray(curve.smoothed)
    shown = smoothed[: -scaled(SKIP_END, len(smoothed))] if curve.diverged and len(smoothed) > 2 else smoothed
    panel.plot(lrs, curve.losses, ".", color=_RAW, markersize=4, label="loss of a step")
    panel.plot(lrs[: len(shown)], shown, color=_SMOOTH, linewidth=2, label="smoothed")
    for name, lr in curve.suggestions.items():
        where = lr * 10 if name in DIVIDED else lr
        height = np.interp(np.log(where), np.log(lrs), smoothed)
        label = f"{name} {lr:.1e}" + (" (a tenth of here)" if name in DIVIDED else "")
        panel.plot(where, height, "o", color=_COLOURS[name], markersize=8, markeredgecolor="white", label=label)
    if chosen:
        low, high = min(chosen), max(chosen)
        label = f"chosen {high:.1e}" if low == high else f"chosen {low:.1e} to {high:.1e}"
        panel.axvspan(low / 1.04, high * 1.04, color=_CHOSEN, alpha=0.35, label=label, linewidth=0)
    _frame(figure, np.concatenate([shown, np.asarray(curve.losses)[: len(shown)]]))
    return figure


def _frame(figure: Figure, heights: np.ndarray) -> None:
    panel = figure.axes[0]
    finite = heights[np.isfinite(heights)]
    if len(finite):
        low, high = np.quantile(finite, [0.0, 0.95])
        margin = 0.1 * (high - low or 1.0)
        panel.set_ylim(low - margin, high + margin)
    panel.set_xscale("log")
    panel.set_xlabel("learning rate of the head (log scale)")
    panel.set_ylabel("training loss")
    panel.grid(alpha=0.2)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
