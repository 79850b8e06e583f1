import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightning_finetune.show.figures.saving import save


def titled(title: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.suptitle(title)
    return figure


def test_a_script_that_the_fonts_lack_is_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="letters such as TIBETAN") as caught:
        save(titled("\u0f40\u0f41\u0f42"), tmp_path / "names.png", 80)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(titled("\u0f44"), tmp_path / "names.png", 80)
    assert Image.open(tmp_path / "names.png").size == (160, 80)


def test_other_warnings_pass(tmp_path: Path) -> None:
    class Loud(Figure):
        def savefig(self, *args, **kwargs):
            warnings.warn("careful", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="careful"):
        save(Loud(), tmp_path / "loud.png", 80)
