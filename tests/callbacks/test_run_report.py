"""The page of real runs, read back and compared with what the runs were."""

import re
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from PIL import Image
from torch.utils.data import DataLoader

from lightning_finetune import ImageData, interpret
from lightning_finetune.callbacks import FineTune, LRRangeTest, OneCycle, RunReport
from lightning_finetune.engine.phases import Phase
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier, UNetSegmenter
from tests.foreign import Fails, ForeignNet, loader, quiet_trainer
from tests.resuming import process
from tests.show.report.reading import Page

PHASES = [Phase(1, "head", 1e-2), Phase(2, "all", ("find", 1e-2))]
HARMFUL = "<script>alert(1)</script>"


def fit(folder, *callbacks: Callback, module=None, data=None, resume=None, **options) -> RunReport:
    torch.manual_seed(0)
    report = RunReport()
    given = {"enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks)}
    trainer = quiet_trainer(folder, callbacks=[*callbacks, report], **{**given, **options})
    loaders = (loader(), loader(16, seed=1)) if data is None else (data,)
    trainer.fit(module or ForeignNet(), *loaders, ckpt_path=resume)
    return report


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, RunReport]:
    """A foreign module through two phases, each epoch saved."""
    folder = tmp_path_factory.mktemp("whole")
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    return folder, fit(folder, FineTune(PHASES), keep)


def test_numbers_are_those_of_the_run(whole):
    folder, report = whole
    found, values = page(folder), report.history.measured["val_loss"]
    best = min(values, key=lambda point: point[1])
    assert found.rows("losses")["val_loss"][:2] == [f"{values[-1][1]:.4g}", f"{best[1]:.4g}"]
    assert [title for title in found.titles if title.startswith("val_loss")] == [
        f"val_loss {value:.4g} at optimizer step {step}" for step, value in values
    ]
    assert found.says("finished ForeignNet Finished after 3 of 3 epochs and 18 optimizer steps.", "")


def test_phases_were_followed(whole):
    folder, _ = whole
    html = (folder / "report.html").read_text()
    rows = [row[1:7] for row in page(folder).tables["plan"] if row[0] in ("planned", "actual")]
    assert len(rows) == 4
    assert [row[:5] for row in rows[0::2]] == [row[:5] for row in rows[1::2]]
    assert [row[5] for row in rows] == ["", "8 px"] * 2, "of the size nothing was planned"
    assert rows[0][:4] == ["1", "6", "head (1 of 4)", "9.7e-3"]
    assert rows[2][:3] == ["2", "12", "all 4 groups"]
    assert "differs" not in html.partition("<body>")[2]


def test_the_range_test_of_a_phase_is_shown_with_its_reason(whole):
    found = page(whole[0])
    assert found.says("Before phase 2", "range-tests")
    assert found.says("rate found: ", "plan")
    assert found.paths["range-tests"]


def test_a_foreign_module_shows_its_predictions_and_says_what_cannot_be_known(whole):
    found = page(whole[0])
    assert len(found.images["predictions"]) == 16
    assert found.says("not for ForeignNet", "top-losses")
    assert found.says("Data from loaders; 6 batches an epoch; AdamW.", "")


def test_it_says_how_it_was_started(whole):
    found = page(whole[0])
    assert found.rows("environment")["precision"] == ["32-true"]
    assert f"torch {torch.__version__.partition('+')[0]}" in found.rows("environment")["packages"][0]
    assert found.texts["command"].split()[1].startswith("python")


def test_how_far_the_loss_came_is_asked_of_a_whole_run(tmp_path):
    slow = ForeignNet("sgd", lr=1e-6)
    with pytest.raises(RuntimeError):
        fit(tmp_path, Fails(11, RuntimeError("broken")), module=slow, max_epochs=2)
    assert page(tmp_path).says("The curves show nothing to worry about. Whether the rate was too low", "diagnosis")
    fit(tmp_path, module=slow, max_epochs=6)  # 36 steps
    assert page(tmp_path).says("Multiply the learning rate by 10", "diagnosis")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError(f"broken {HARMFUL}"),
            f"failed ForeignNet Failed after 1 of 3 epochs and 8 optimizer steps. RuntimeError: broken {HARMFUL}",
        ),
        (KeyboardInterrupt(), "stopped ForeignNet Stopped by hand after 1 of 3 epochs and 8 optimizer steps."),
    ],
)
def test_a_run_that_did_not_end_shows_how_far_it_came_and_how_to_go_on(tmp_path, error, said):
    keep = ModelCheckpoint(tmp_path, "kept", save_on_train_epoch_end=True)
    with pytest.raises((RuntimeError, SystemExit)):
        fit(tmp_path, FineTune(PHASES), Fails(8, error), keep)
    found = page(tmp_path)
    assert found.says(said, "")
    head, full = [row[1:3] for row in found.tables["plan"] if row[0] == "actual"]
    assert (head, full) == (["1", "6"], ["1", "2"])
    assert "kept.ckpt" in found.texts["command"]
    assert "ckpt_path" in found.texts["command"]


def test_a_page_that_cannot_be_written_ends_no_run_and_hides_no_error(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.warns(UserWarning, match="report.html was not written: IsADirectoryError"):
        assert fit(tmp_path, max_epochs=1).history.epochs == [0]
    with pytest.raises(RuntimeError, match="broken"), pytest.warns(UserWarning, match="report.html was not written"):
        fit(tmp_path, Fails(3, RuntimeError("broken")), max_epochs=1)


def test_it_can_be_switched_off(tmp_path):
    quiet_trainer(tmp_path, callbacks=[RunReport(enabled=False)], max_epochs=1).fit(ForeignNet(), loader(), loader(16))
    assert not (tmp_path / "report.html").exists()


def test_a_page_is_there_after_each_phase(tmp_path):
    class Reads(Callback):
        pages: list[str] = []  # noqa: RUF012  # of one run

        def on_train_epoch_start(self, trainer, pl_module):
            file = tmp_path / "report.html"
            self.pages.append(file.read_text() if file.exists() else "")

    fit(tmp_path, FineTune([Phase(2, "head"), Phase(2, "all")]), reads := Reads())
    assert [bool(text) for text in reads.pages] == [False, False, True, True]
    assert Page(reads.pages[-1]).says("running ForeignNet Still running when this was written, after 2 of 4", "")


def test_a_resumed_run_shows_the_whole(whole, tmp_path):
    folder, _ = whole
    checkpoint = torch.load(folder / "epoch=0.ckpt")
    checkpoint["callbacks"]["RunReport"]["seconds"] += 5000
    torch.save(checkpoint, tmp_path / "later.ckpt")
    fit(tmp_path, FineTune(PHASES), resume=tmp_path / "later.ckpt")
    found, first = page(tmp_path), page(folder)
    assert found.paths["losses"] == first.paths["losses"]
    assert found.paths["plan"] == first.paths["plan"]
    assert found.rows("losses") == first.rows("losses")
    assert found.says("trained for 1 h 23 min", "")
    assert "from step 6 of an earlier process" in found.rows("environment")["started"][0]


def test_what_deviates_from_the_plan_is_marked(tmp_path):
    class Meddles(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 8:
                pl_module.stem.requires_grad_(False)

    fit(tmp_path, FineTune([Phase(1, "head"), Phase(1, "all")]), Meddles())
    marked = re.findall(r'<td class="differs">(.*?)</td>', (tmp_path / "report.html").read_text())
    assert marked[0] == "all 4 groups, then body to head (3 of 4)"


def test_norm_layers_that_train_by_plan_are_no_deviation(tmp_path):
    fit(tmp_path, FineTune([Phase(1, "head"), Phase(1, "all")], train_norm=True))
    html = (tmp_path / "report.html").read_text()
    assert "head (1 of 4) and up to " in html
    assert 'class="differs"' not in html


def test_without_phases_or_validation(tmp_path):
    fit(tmp_path, LRRangeTest(num_steps=20, apply=False), max_epochs=2, limit_val_batches=0)
    found = page(tmp_path)
    assert found.says("This run follows no phases", "plan")
    assert found.says("Nothing was measured", "losses")
    assert found.says("No phase has ended with a validation.", "predictions")
    assert found.says("Before epoch 1", "range-tests")
    assert [row[:3] for row in found.tables["plan"] if row[0] == "actual"] == [["actual", "2", "12"]]


def test_callbacks_that_share_the_work_are_one_plan(tmp_path):
    fit(tmp_path, OneCycle((1e-3, 1e-2)), max_epochs=2)
    found = page(tmp_path)
    assert len(found.paths["plan"]) == 2 * 4 + 2 + 2, "rates, momentum and sizes, each with its plan"


def test_a_run_that_ends_early_says_so(tmp_path):
    class Worse(ForeignNet):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))

    stopping = EarlyStopping("val_loss", patience=1)
    fit(tmp_path, stopping, module=Worse(), max_epochs=9)
    assert page(tmp_path).says("stopped Worse Ended early, after 2 of 9 epochs and 12 optimizer steps.", "")


def test_a_module_whose_batches_are_no_images(tmp_path):
    class Rows(ForeignNet):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["rows"], batch["y"]), batch_idx)

        validation_step = None

    rows = [{"rows": torch.randn(4, 3, 8, 8), "y": torch.randint(0, 4, (4,))} for _ in range(3)]
    report = RunReport()
    quiet_trainer(tmp_path, callbacks=[report], max_epochs=1).fit(Rows(), DataLoader(rows, batch_size=None))
    assert report.history.sizes == [None] * 3
    assert page(tmp_path).paths["plan"]


def test_a_module_that_cannot_be_asked_ends_no_run(tmp_path):
    class Pairs(ForeignNet):
        def forward(self, x, y):
            return super().forward(x), y

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(*self(*batch))

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.nn.functional.cross_entropy(*self(*batch)))

    fit(tmp_path, module=Pairs(), max_epochs=1)
    assert page(tmp_path).says("They cannot be shown: DataError: expected a `forward` that takes images", "predictions")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of noise, the name of one harmful to a page that shows it as it is."""
    root, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 8), ("valid", 12)):
        for name in ("bees", HARMFUL.replace("/", "-")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def losses_in(found: Page) -> list[float]:
    return [float(value) for value in re.findall(r"loss ([\d.e+-]+)", found.texts["top-losses"].partition("\n")[2])]


def files_in(found: Page) -> list[str]:
    return re.findall(r"\S+\.(?:jpg|png)", found.texts["top-losses"])


def test_top_losses_are_those_of_the_interpretation(tmp_path, photos):
    pl.seed_everything(1, verbose=False)
    data = ImageData.from_folder(photos, size=32, batch_size=5, num_workers=0)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False)
    fit(tmp_path, FineTune([Phase(1, "head", 1e-3), Phase(1, "all", 1e-3)]), module=task, data=data)
    worst = interpret(task, data).top_losses(9)
    found = page(tmp_path)
    assert losses_in(found) == pytest.approx(worst["loss"].tolist(), rel=1e-3)
    assert files_in(found) == ["/".join(Path(file).parts[-3:]) for file in worst["file"]]
    assert len(found.images["top-losses"]) == 9
    for truth, said, image in zip(worst["truth"], worst["prediction"], found.images["top-losses"], strict=True):
        assert image["alt"].startswith(f"Photo of {truth}, predicted {said} ")
    assert "script" not in found.tags
    assert found.says("16 training and 24 validation images", "")


def labels(root: Path) -> tuple[MultiLabelClassifier, ImageData]:
    rows = [
        (path.relative_to(root), ["a", "a b", "b"][place % 3]) for place, path in enumerate(sorted(root.rglob("*.jpg")))
    ]
    table = pd.DataFrame({"image": [str(path) for path, _ in rows], "tags": [tags for _, tags in rows]})
    data = ImageData.from_df(table, root, label_col="tags", label_delim=" ", image_col="image", size=32, num_workers=0)
    return MultiLabelClassifier("test_resnet", num_classes=2, weights=False, threshold=[0.45, 0.55]), data


def masks(root: Path) -> tuple[UNetSegmenter, ImageData]:
    noise, folder = np.random.default_rng(0), root.with_name("masked")
    (folder / "masks").mkdir(parents=True)
    for split, count in (("train", 4), ("val", 12)):
        (folder / split).mkdir()
        for number in range(count):
            pixels = noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            mask = noise.integers(0, 2, (64, 64), dtype=np.uint8)
            mask[0] = 255
            Image.fromarray(pixels).save(folder / split / f"{split}{number}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{split}{number}.png")
    data = ImageData.from_folder(folder, masks="masks", codes=["dark", "bright"], size=64, batch_size=4, num_workers=0)
    return UNetSegmenter(backbone="resnet18", num_classes=2, weights=False, ignore_index=255), data


@pytest.mark.parametrize("make", [labels, masks])
def test_top_losses_of_labels_and_masks(tmp_path, photos, make):
    pl.seed_everything(1, verbose=False)
    task, data = make(photos)
    fit(tmp_path, FineTune([Phase(1, "all", 1e-3)]), module=task, data=data)
    found, worst = page(tmp_path), interpret(task, data).top_losses(9)
    assert losses_in(found) == pytest.approx(worst["loss"].tolist(), rel=1e-3)
    assert files_in(found) == ["/".join(Path(file).parts[-3:]) for file in worst["file"]]
    if make is masks:
        shares = re.findall(r"(\d+)% equal", found.texts["top-losses"])
        assert [int(share) for share in shares] == [round(100 * value) for value in worst["pixel_accuracy"]]
        assert found.says("dark bright", "top-losses"), "the legend of the masks"
    else:
        said = [image["alt"].partition("predicted ")[2] for image in found.images["top-losses"]]
        assert said == [", ".join(words.split()) or "none" for words in worst["prediction"]]


def test_a_loss_that_takes_no_single_image_is_told(tmp_path, photos):
    class Contrast(torch.nn.Module):
        def forward(self, logits, target):
            if len(logits) < 2:
                raise ValueError("it compares images")
            return torch.nn.functional.cross_entropy(logits, target)

    data = ImageData.from_folder(photos, size=32, batch_size=8, num_workers=0)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, loss=Contrast())
    fit(tmp_path, module=task, data=data, max_epochs=1)
    why = "Losses of single images cannot be known: ValueError: it compares images"
    assert page(tmp_path).says(why, "top-losses")


@pytest.mark.slow
def test_two_processes_write_one_page_of_all_images(tmp_path, photos):
    words = ["--which", "report", "--images", photos, "--strategy", "ddp", "--devices", "2", "--batch-size", "4"]
    process("tests.runs", tmp_path, *words)
    assert list(tmp_path.rglob("*.html")) == [tmp_path / "rank0/report.html"]
    task = ImageClassifier("test_efficientnet", num_classes=2, weights=False)
    task.load_state_dict(torch.load(tmp_path / "rank0.pt")["params"])
    data = ImageData.from_folder(photos, size=64, batch_size=4, num_workers=0)
    task.classes, task.preprocessing = data.classes, data.preprocessing()
    worst, found = interpret(task, data).top_losses(9), page(tmp_path / "rank0")
    assert losses_in(found) == pytest.approx(worst["loss"].tolist(), rel=1e-3)
    assert found.rows("environment")["devices"] == ["2 of CPU, DDPStrategy"]
