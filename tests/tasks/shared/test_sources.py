import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.shared.sources import known_preprocessing, list_sources, normalize, original_size


def test_normalising_is_what_the_statistics_say():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 1, 3)[:, None].expand(2, 2, 1, 3)
    found = normalize(pixels, {"mean": [0.0, 0.5], "std": [1.0, 0.25]})
    assert found[1, 0, 0].tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert found[1, 1, 0].tolist() == pytest.approx([-2.0, 2.0, -1.2])


def test_what_a_source_means(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    assert list_sources(tmp_path) == ([tmp_path / "a.PNG", tmp_path / "b.jpg"], True)
    assert list_sources(str(tmp_path / "b.jpg")) == ([str(tmp_path / "b.jpg")], False)
    assert list_sources(["x.jpg"]) == (["x.jpg"], True)
    array = np.zeros((4, 5, 3), np.uint8)
    assert list_sources(array)[1] is False


def test_sizes_are_those_of_the_upright_image(tmp_path):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "side.jpg", exif=exif)
    assert original_size(tmp_path / "side.jpg") == (30, 20)
    assert original_size(Image.open(tmp_path / "side.jpg")) == (30, 20)
    assert original_size(Image.new("RGB", (30, 20))) == (20, 30)
    assert original_size(np.zeros((4, 5, 3), np.uint8)) == (4, 5)
    assert original_size(torch.zeros(3, 4, 5, dtype=torch.uint8)) == (4, 5)


@pytest.mark.parametrize("preprocessing", [None, {"size": None}])
def test_unknown_sizes_say_how_to_mend_it(preprocessing):
    with pytest.raises(FinetuneError, match=r"task\.preprocessing = "):
        known_preprocessing(preprocessing)
