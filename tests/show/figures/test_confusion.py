import numpy as np

from lightning_finetune.show.figures.confusion import draw_confusion


def texts(counts: np.ndarray) -> list[str]:
    """What stands in the cells, row by row."""
    (panel,) = draw_confusion([("", ["a", "b"], counts)]).axes
    return [text.get_text() for text in panel.texts]


def test_cells_hold_counts_and_of_many_pixels_shares_of_the_true_class() -> None:
    assert texts(np.array([[3, 1], [0, 4]])) == ["3", "1", "0", "4"]
    assert texts(np.array([[75_000, 25_000], [0, 4]])) == ["75%", "25%", "0%", "100%"]


def test_a_class_that_does_not_occur_has_no_share() -> None:
    assert texts(np.array([[20_000, 0], [0, 0]])) == ["100%", "0%", "0%", "0%"]


def test_labels_have_a_small_matrix_each_under_their_names() -> None:
    counts = np.array([[3, 1], [0, 4]])
    figure = draw_confusion([(name, ["absent", "present"], counts) for name in "abc"])
    assert [panel.get_title() for panel in figure.axes] == ["a", "b", "c", ""]
    assert [len(panel.texts) for panel in figure.axes] == [4, 4, 4, 0]
