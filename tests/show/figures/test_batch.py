"""Figures of batches."""

import torch

from lightning_finetune.show.figures.batch import batch_figure, label_text

NAMES = ["ant", "bee", "wasp"]


def test_labels_are_written_as_a_person_reads_them():
    assert label_text(torch.tensor(1), NAMES) == "bee"
    assert label_text(torch.tensor([1.0, 0.0, 1.0]), NAMES) == "ant wasp"
    assert label_text(torch.tensor([0.25, 0.75, 0.0]), NAMES) == "ant 25% bee 75%"
    assert label_text(torch.zeros(3), NAMES) == ""


def test_masks_are_laid_over_and_explained_and_what_is_none_of_them_is_left_clear():
    image = torch.full((1, 3, 4, 4), 0.5)
    mask = torch.tensor([[0, 1], [1, -1]]).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    figure = batch_figure({"image": image, "mask": mask}, NAMES)
    drawn = figure.axes[0].images[0].get_array()
    assert (drawn[3, 3] == 128).all()
    assert (drawn[0, 0] != drawn[0, 3]).any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ant", "bee"]
