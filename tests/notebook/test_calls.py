"""The calls for notebooks on real images, and what a real kernel's cells show of them."""

import base64
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
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


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: fine_tune(None, None), "`model` to be of the class LightningModule, got None"),
        (lambda: fine_tune(ForeignNet(), loader(), epochs="3"), "`epochs`"),
        (lambda: lr_find(1, 2), "`model`"),
        (lambda: show_results(ForeignNet(), loader(), count="9"), "`count` to be a whole number"),
    ],
)
def test_a_wrong_argument_is_named(call, named: str) -> None:
    with pytest.raises(FinetuneError, match=named):
        call()


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
        "from lightning_finetune import *",
        f"data = ImageData.from_folder({str(photos)!r}, size=32, batch_size=8, num_workers=0); data",
        "data.show_batch()",
        "model = ImageClassifier('test_resnet', num_classes=3, weights=False)",
        "lr_find(model, data)",
        "FineTune(3)",
        "plan = FineTune([Phase(1, 'head', 3e-3, size=32), Phase(2, 'all', (1e-5, 3e-4))]).plan(4); plan",
        "plan.plot()",
        "run = fine_tune(model, data, 3); run",
        "run.history",
        "run.history.plot()",
        "show_results(model, data)",
        f"model.predict({str(next(photos.rglob('*.jpg')))!r})",
        "interpret(model, data)",
        "from lightning_finetune.callbacks import epoch_table as table; table._PAUSE, seen = 0.0, []\n"
        "table.running_html = lambda *place: seen.append(place) or str(place)\n"
        "run = fine_tune(model, data, 1); seen",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[output["data"] for output in cell.outputs if "data" in output] for cell in book.cells]
    _, _, summary, batch, _, found, recipe, plan, rates, run, history, losses, results, said, wrong, progress = shown
    assert "3 classes" in summary[0]["text/plain"]
    assert "image/png" in found[-1]["text/html"]
    for figure in (batch, rates, losses, results):
        assert base64.b64decode(figure[-1]["image/png"]).startswith(b"\x89PNG")
    assert recipe[-1]["text/plain"] == "FineTune:\n  Phase(3, 'all', lr=(0.0001, 0.0005))"
    assert re.findall(r"<td>(\d)</td><td>[\d-]+</td><td>(\d)</td>", plan[-1]["text/html"]) == [("1", "4"), ("2", "8")]
    assert plan[-1]["text/plain"].splitlines()[1].split()[:3] == ["1", "1", "4"]
    assert history[-1]["text/plain"].startswith("History: 9 steps of 3 epochs, measured: val_loss")
    assert re.match(r"Prediction of .*\.jpg: \w+ [\d.]+%, ", said[-1]["text/plain"])
    assert len(wrong[-1]["text/plain"].splitlines()) == 5, "a sentence, names of columns, the three worst"
    tables = [data for data in run if "<table>" in data.get("text/html", "")]
    assert len(tables) == 1, "one table, which grows"
    assert re.findall(r"<tr[^>]*><td>(\d)</td>", tables[0]["text/html"]) == ["1", "2", "3"]
    assert "batches" not in tables[0]["text/html"], "the progress within an epoch goes with the epoch"
    assert progress[-1]["text/plain"] == "[(1, 1, 3), (1, 2, 3), (1, 3, 3)]"
    assert "ipywidgets" not in str([data for cell in shown for data in cell]), "nothing that needs them"
    words = "".join(output.get("text", "") for cell in book.cells for output in cell.outputs)
    assert not re.search("max_epochs.*was not set|litlogger|treespec", words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_of_a_notebook_end_with_the_task_and_the_run_in_the_cell(photos: Path, tmp_path: Path) -> None:
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    two = "accelerator='cpu', devices=2, strategy='ddp_notebook', enable_progress_bar=False"
    cells = [
        "from lightning_finetune import *",
        f"data = ImageData.from_folder({str(photos)!r}, size=32, batch_size=4, num_workers=0)",
        "model = ImageClassifier('test_resnet', num_classes=3, weights=False)",
        f"run = fine_tune(model, data, 2, {two})",
        "assert model.classes == data.classes",
        "assert [row['epoch'] for row in run.table.rows] == [1, 2]",
        "assert len(run.history.epochs) == 2 and len(run.history.losses) == len(run.history.steps) > 2",
        "assert len(run.bands) == 1; run.plot()",
        "tested = run.trainer.callback_metrics['val_loss'].item()",
        "import lightning as L",
        "(again,) = L.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False).validate(model, data)",
        "assert abs(again['val_loss'] - tested) < 1e-5, (again, tested)",
        f"model.predict({str(next(photos.rglob('*.jpg')))!r})",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "image/png" in book.cells[7].outputs[-1]["data"]
