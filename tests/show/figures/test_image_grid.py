"""Figures of batches."""

import numpy as np

from lightning_finetune.show.figures.image_grid import batch_figure

NAMES = ["ant", "bee", "wasp"]


def test_labels_stand_above_their_images():
    figure = batch_figure([np.full((4, 4, 3), 128, np.uint8)] * 2, ["ant", "bee"], None, NAMES)
    assert [axes.get_title() for axes in figure.axes] == ["ant", "bee"]


def test_masks_are_laid_over_and_explained_and_what_is_none_of_them_is_left_clear():
    mask = np.repeat(np.repeat([[0, 1], [1, -1]], 2, 0), 2, 1)
    figure = batch_figure([np.full((4, 4, 3), 128, np.uint8)], None, [mask], NAMES)
    drawn = figure.axes[0].images[0].get_array()
    assert (drawn[3, 3] == 128).all()
    assert (drawn[0, 0] != drawn[0, 3]).any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ant", "bee"]
