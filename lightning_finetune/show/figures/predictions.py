"""Grids of images: of a batch with its labels, and of what is true beside what was predicted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_finetune.show.figures.cell import grid, short_name
from lightning_finetune.show.figures.content import Pixels, Shown

_ROWS = 2**22  # values of an image that are mixed at once

_MOST_LINES = 5  # of a caption

_HANDLE, _LETTER = 0.6, 0.07  # inches of a legend's colour and of a letter beside it

_PALETTE = np.array(colormaps["tab20"].colors)  # type: ignore[attr-defined]  # a list of 20 triples
_RIGHT, _WRONG, _NEUTRAL = "#228833", "#cc3311", "#444444"


def draw_predictions(shown: Sequence[Shown], title: str = "", classes: Sequence[str] = ()) -> Figure:
    """A grid of images, each under its truth and prediction; wrong ones framed and written in red.

    Args:
        shown: At least one.
        title: Above the grid.
        classes: Names of the ids in masks, for the legend of their colours.
    """
    figure, panels = grid(len(shown), 2.3 if shown[0].masks is None else 4.6, 2.75, above=0.5)
    for panel, item in zip(panels, shown, strict=True):
        _draw_one(panel, item)
    figure.suptitle("\n".join(filter(None, [title, _how_to_read(shown)])), fontsize="medium")
    if classes:
        add_legend(figure, [mask for item in shown for mask in item.masks or ()], classes)
    return figure


def _how_to_read(shown: Sequence[Shown]) -> str:
    """What the captions leave unsaid."""
    if shown[0].masks is not None:
        return "left: the true mask, right: the predicted one"
    return "red: wrong, with the truth below" if any(item.wrong for item in shown) else ""


def add_legend(figure: Figure, masks: Iterable[npt.NDArray[np.int64]], classes: Sequence[str]) -> None:
    """Name the colours of an :func:`overlay` below all panels: those of the ids that ``masks`` hold."""
    patches = [Patch(color=colour, label=short_name(name)) for colour, name in colours_of(masks, classes)]
    if patches:
        widest = _HANDLE + _LETTER * max(len(str(patch.get_label())) for patch in patches)
        columns = max(1, min(6, int(figure.get_figwidth() / widest)))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8)


def colours_of(masks: Iterable[npt.NDArray[np.int64]], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and name of each class that occurs in ``masks``."""
    ids = sorted({number for mask in masks for number in np.unique(mask).tolist() if 0 <= number < len(classes)})
    return [(class_colour(number), classes[number]) for number in ids]


def _draw_one(panel: Axes, item: Shown) -> None:
    color = {True: _WRONG, False: _RIGHT, None: _NEUTRAL}[item.wrong]
    panel.imshow(item.image if item.masks is None else np.hstack([overlay(item.image, mask) for mask in item.masks]))
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set(color=color, linewidth=4 if item.wrong else 1)
    mark = {True: "✗ ", False: "✓ ", None: ""}[item.wrong]
    truth = _lines(f"is {item.truth}") if item.truth and item.wrong is not False else []
    panel.set_title("\n".join([*_lines(f"{mark}{item.prediction}"), *truth]), fontsize=9, color=color)


def _lines(text: str) -> list[str]:
    """Of the width of an image; as many as several labels need."""
    return textwrap.wrap(text, 34, max_lines=_MOST_LINES, placeholder=" …")


def overlay(image: Pixels, mask: npt.NDArray[np.int64], opacity: float = 0.55) -> Pixels:
    """``image`` with the classes of ``mask`` in colours; negative ids are left bare.

    Args:
        image: ``[h, w, 3]``.
        mask: Class ids ``[h, w]``.
        opacity: Of the colours.
    """
    mixed = np.empty_like(image)
    for rows in np.array_split(np.arange(len(image)), 1 + image.size // _ROWS):  # of a large image a part at a time
        ids = mask[rows]
        share = np.where(ids >= 0, opacity, 0.0)[..., None]
        mixed[rows] = image[rows] * (1 - share) + _PALETTE[ids % len(_PALETTE)] * 255 * share
    return mixed


def class_colour(number: int) -> str:
    """The colour of a class in an :func:`overlay`, as ``#rrggbb``."""
    return str(to_hex(_PALETTE[number % len(_PALETTE)]))


def batch_figure(
    images: Sequence[Pixels],
    titles: Sequence[str] | None,
    masks: Sequence[npt.NDArray[np.int64]] | None,
    classes: Sequence[str],
) -> Figure:
    """Draw every image of a batch.

    Args:
        images: ``[h, w, 3]`` each.
        titles: What stands above each.
        masks: Class ids ``[h, w]``, laid over each; negative ones are left bare.
        classes: The names of the classes in masks.
    """
    figure, panels = grid(len(images), 3, 3.2)
    for number, panel in enumerate(panels):
        panel.set_axis_off()
        panel.imshow(images[number] if masks is None else overlay(images[number], masks[number]))
        panel.set_title("" if titles is None else titles[number], fontsize=9)
    if masks is not None:
        add_legend(figure, masks, classes)
    return figure
