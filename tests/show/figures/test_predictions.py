import numpy as np
import pytest
from matplotlib.text import Text

from lightning_finetune.show.figures.confusion import draw_confusion
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.show.figures.predictions import batch_figure, draw_predictions, overlay

GREY = np.full((8, 8, 3), 100, np.uint8)


def test_wrong_ones_say_so_and_what_is_true() -> None:
    figure = draw_predictions([Shown(GREY, "cat", "cat 90%", False), Shown(GREY, "cat", "dog 60%", True)])
    right, wrong = (panel.get_title() for panel in figure.axes[:2])
    assert right == "✓ cat 90%"
    assert wrong == "✗ dog 60%\nis cat"
    assert figure.axes[0].spines["left"].get_edgecolor() != figure.axes[1].spines["left"].get_edgecolor()


def test_numbers_stand_above_the_true_ones_in_lines_of_the_width_of_an_image() -> None:
    said, truth = ("red 12.25, green 7.5, blue 3.25, alpha 5.5, depth 9.125", "red 11.5, green 8.25")
    panel = draw_predictions([Shown(GREY, truth, said, None)]).axes[0]
    assert panel.get_title() == "red 12.25, green 7.5, blue 3.25,\nalpha 5.5, depth 9.125\nis red 11.5, green 8.25"


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (5, 6), (16, 16)])
def test_the_grid_is_about_square(count: int, panels: int) -> None:
    assert len(draw_predictions([Shown(GREY, "a", "a", False)] * count).axes) == panels


def test_masks_lie_side_by_side_over_the_image() -> None:
    masks = (np.zeros((8, 8), np.int64), np.ones((8, 8), np.int64))
    panel = draw_predictions([Shown(GREY, "", "half", None, masks)]).axes[0]
    drawn = panel.images[0].get_array()
    assert drawn.shape == (8, 16, 3)
    assert (drawn[0, 0] != drawn[0, 15]).any()


def test_a_legend_names_each_class_within_the_width_of_the_figure() -> None:
    names = ["_background", "two\nlines", *(f"one of many kinds of road as a sentence says it, {k}" for k in range(4))]
    mask = np.arange(6)[None]
    figure = draw_predictions([Shown(GREY[:1, :6], "", "half", None, (mask, mask))], classes=names)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert shown[:2] == ["_background", "two lines"]
    assert len(set(shown)) == 6
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_matrix_of_long_names_keeps_its_place() -> None:
    names = [f"{k} a name that somebody wrote as a whole sentence, and then as another one" for k in range(3)]
    figure = draw_confusion([("", names, np.eye(3, dtype=np.int64))])
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > figure.bbox.width / 4


def test_masks_have_a_legend_of_the_classes_that_are_seen_and_say_which_is_which() -> None:
    masks = (np.array([[0, 2]]), np.array([[-1, 2]]))
    figure = draw_predictions([Shown(GREY[:1, :2], "", "half", None, masks)], "Predictions", ["road", "sky", "tree"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["road", "tree"]
    assert figure.get_suptitle() == "Predictions\nleft: the true mask, right: the predicted one"


def test_captions_hold_eight_labels_whole() -> None:
    labels = ", ".join(["bare-soil", "buildings", "cars", "grass", "mobile-home", "pavement", "trees", "water"])
    panel = draw_predictions([Shown(GREY, labels, labels, True)]).axes[0]
    assert panel.get_title().replace("\n", " ") == f"✗ {labels} is {labels}"


def test_negative_ids_leave_the_image_bare() -> None:
    mask = np.array([[-1, 3]])
    assert (overlay(GREY[:1, :2], mask)[0, 0] == 100).all()
    assert (overlay(GREY[:1, :2], mask)[0, 1] != 100).any()


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


def test_dollars_in_names_are_no_formula(tmp_path) -> None:
    names, masks = ["$5_$10", "a$\\frac$b"], (np.zeros((8, 8), np.int64), np.ones((8, 8), np.int64))
    for figure in (
        draw_predictions([Shown(GREY, names[0], names[1], True, masks)], classes=names),
        draw_confusion([("", names, np.eye(2, dtype=np.int64))]),
    ):
        figure.savefig(tmp_path / "names.png")
        texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and "$" in text.get_text()]
        assert texts
        assert not any(text.get_parse_math() for text in texts)
