"""Figures of batches."""

from pathlib import Path

import numpy as np
import torch

from lightning_finetune.data import ImageData
from lightning_finetune.show.figures.batch import batch_figure, label_text

NAMES = ["ant", "bee", "wasp"]


def test_labels_are_written_as_a_person_reads_them():
    assert label_text(torch.tensor(1), NAMES) == "bee"
    assert label_text(torch.tensor([1.0, 0.0, 1.0]), NAMES) == "ant wasp"
    assert label_text(torch.tensor([0.25, 0.75, 0.0]), NAMES) == "ant 25% bee 75%"
    assert label_text(torch.zeros(3), NAMES) == ""


def test_a_batch_of_each_split_is_drawn_with_its_labels(insects: Path, tmp_path: Path):
    data = ImageData.from_folder(insects, size=32, num_workers=0)
    figure = data.show_batch(5, split="valid")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["ant", "ant", "ant", "ant", "bee"]
    figure.savefig(tmp_path / "batch.png")
    assert (tmp_path / "batch.png").stat().st_size > 1000
    shown = data.show_batch(4).axes[0].images[0].get_array()
    assert not np.array_equal(shown, data.show_batch(4, epoch=1).axes[0].images[0].get_array())


def test_masks_are_laid_over_and_explained_and_void_is_left_clear():
    image = torch.full((1, 3, 4, 4), 0.5)
    mask = torch.tensor([[0, 1], [1, 255]]).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    figure = batch_figure({"image": image, "mask": mask}, NAMES)
    drawn = figure.axes[0].images[0].get_array()
    assert np.allclose(drawn[3, 3], 0.5)
    assert not np.allclose(drawn[0, 0], drawn[0, 3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ant", "bee"]
