"""The calls for notebooks on real images, and what a real kernel's cells show of them."""

import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from matplotlib.figure import Figure

from lightning_finetune import FineTune, ImageClassifier, ImageData, fine_tune, lr_find, show_results
from lightning_finetune.errors import FinetuneError
from tests.foreign import ForeignNet, loader
from tests.resuming import assert_same_bits


@pytest.fixture
def data(photos: Path) -> ImageData:
    return ImageData.from_folder(photos, size=32, batch_size=8, num_workers=0)


def model() -> ImageClassifier:
    pl.seed_everything(0, verbose=False)
    return ImageClassifier("test_resnet", num_classes=3, weights=False)


def test_one_call_trains_as_the_trainer_does_and_leaves_no_files(here: Path, data: ImageData, capsys) -> None:
    called, trained = model(), model()
    run = fine_tune(called, data, 2, enable_progress_bar=False)
    pl.Trainer(callbacks=[FineTune(2)], logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
        trained, data
    )
    assert_same_bits(dict(called.state_dict()), dict(trained.state_dict()))
    assert list(here.iterdir()) == []
    assert [row["epoch"] for row in run.table.rows] == [1, 2]
    assert run.table.rows[1]["val_loss"] == pytest.approx(float(run.trainer.callback_metrics["val_loss"]))
    first = [loss for step, loss in zip(run.history.steps, run.history.losses, strict=True) if step < 3]
    assert run.table.rows[0]["train_loss"] == pytest.approx(sum(first) / 3, rel=1e-5)
    lines = repr(run).splitlines()
    assert lines[0].split() == ["epoch", "train_loss", "val_loss", "val_error_rate", "val_accuracy", "time"]
    assert lines[1 + run.table.best].endswith(" *")
    assert lines[1][:-2].rstrip(" *") in capsys.readouterr().out
    assert isinstance(run.plot(), Figure)


def test_foreign_modules_and_loaders_are_taken(here: Path) -> None:
    run = fine_tune(ForeignNet(), (loader(), loader(16, seed=1)), 1, enable_progress_bar=False)
    assert run.trainer.current_epoch == 1


def test_phases_come_from_one_place(data: ImageData) -> None:
    with pytest.raises(FinetuneError, match="makes its own FineTune"):
        fine_tune(model(), data, callbacks=[FineTune(2)])


@pytest.mark.parametrize("unfrozen", [False, True])
def test_the_range_test_leaves_the_model_and_the_folder_as_they_were(
    here: Path, data: ImageData, unfrozen: bool
) -> None:
    tested = model()
    before = {name: value.clone() for name, value in tested.state_dict().items()}
    said = lr_find(tested, data, unfrozen)
    assert_same_bits(before, dict(tested.state_dict()))
    assert list(here.iterdir()) == []
    assert isinstance(said.lr, tuple) is unfrozen
    assert said.suggestions.keys() >= {"steep", "valley"}
    assert repr(said).startswith("Take ")
    assert "data:image/png;base64," in said._repr_html_()


def test_results_are_drawn_without_training(here: Path, data: ImageData) -> None:
    shown = model()
    before = {name: value.clone() for name, value in shown.state_dict().items()}
    figure = show_results(shown, data, count=4)
    assert len([panel for panel in figure.axes if panel.images]) == 4
    assert_same_bits(before, dict(shown.state_dict()))
    assert list(here.iterdir()) == []


def test_cells_of_a_kernel_show_a_growing_table_and_a_curve(photos: Path, tmp_path: Path) -> None:
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "import torch; torch.set_num_threads(1)",
        "from lightning_finetune import ImageClassifier, ImageData, fine_tune, lr_find",
        f"data = ImageData.from_folder({str(photos)!r}, size=32, batch_size=8, num_workers=0); data",
        "model = ImageClassifier('test_resnet', num_classes=3, weights=False)",
        "lr_find(model, data)",
        "fine_tune(model, data, 3, enable_progress_bar=False)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, _, summary, _, found, run = ([output for output in cell.outputs if "data" in output] for cell in book.cells)
    assert "3 classes" in summary[0]["data"]["text/plain"]
    assert "image/png" in found[-1]["data"]["text/html"]
    tables = [output for output in run if "<table>" in output["data"].get("text/html", "")]
    assert len(tables) == 1, "one table, which grows"
    assert re.findall(r"<tr[^>]*><td>(\d)</td>", tables[0]["data"]["text/html"]) == ["1", "2", "3"]
    assert list(tmp_path.iterdir()) == []


def test_rows_survive_a_resume(here: Path, data: ImageData) -> None:
    first = fine_tune(model(), data, 2, enable_progress_bar=False, max_epochs=2)
    first.trainer.save_checkpoint("two.ckpt")
    kept = torch.load("two.ckpt", weights_only=True)["callbacks"]["EpochTable"]["rows"]
    assert kept == first.table.rows
