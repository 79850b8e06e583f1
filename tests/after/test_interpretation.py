import copy
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix, precision_recall_fscore_support

from lightning_finetune import interpret
from lightning_finetune.after.interpretation import Interpretation
from lightning_finetune.data.image_data import ImageData
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier, UNetSegmenter
from lightning_finetune.tasks.measures.confusion import Confusion
from tests.tasks.photos import photo


@pytest.fixture
def classifier(trainer, data):
    torch.manual_seed(0)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, lr=1e-6)
    trainer(1, limit_train_batches=1, limit_val_batches=0).fit(task, data)
    return task


def test_classes_are_counted_as_scikit_learn_counts_them(classifier, data, folder):
    classifier = copy.deepcopy(classifier)
    classifier.model.head[-1].bias.data[0] += 8  # all images are of the first class
    found = interpret(classifier, data)
    files = sorted((folder / "valid").rglob("*.jpg"))
    assert sorted(found.items["file"]) == [str(file) for file in files]
    said = [classifier.predict(file) for file in found.items["file"]]
    assert list(found.items["prediction"]) == [one.label for one in said]
    np.testing.assert_allclose(found.items["probability"], [one.probability for one in said], atol=1e-5)
    truth = [file.split("/")[-2] for file in found.items["file"]]
    losses = [-np.log(one.probabilities[true]) for one, true in zip(said, truth, strict=True)]
    np.testing.assert_allclose(found.items["loss"], losses, atol=1e-4)
    assert found.top_losses(3)["loss"].tolist() == sorted(found.items["loss"], reverse=True)[:3]
    predicted = found.items["prediction"]
    assert (found.confusion_matrix().to_numpy() == confusion_matrix(truth, predicted)).all()
    theirs = precision_recall_fscore_support(truth, predicted, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(found.report()[name], values)
    wrong = int((np.array(truth) != predicted).sum())
    assert found.most_confused()["count"].sum() == wrong > 0
    assert found.most_confused(min_val=wrong + 1).empty


@pytest.mark.parametrize("judge", ["interpret", "validate"])
def test_images_that_are_not_those_of_training_are_warned_of(classifier, data, folder, trainer, judge):
    """Not where the size is that of training, nor of a second training at another."""
    options = {"batch_size": 8, "num_workers": 0, "seed": 0}
    height, width = data.size
    other = ImageData.from_folder(folder, size=2 * height, stats=data.stats, **options)

    def ask(data):
        return interpret(classifier, data) if judge == "interpret" else trainer(1).validate(classifier, data)

    ask(data)
    with pytest.warns(UserWarning, match=rf"size \[{height}, {width}\] and \[{2 * height}, {2 * height}\]"):
        ask(other)
    trainer(1, limit_train_batches=1, limit_val_batches=1).fit(classifier, other)


def test_all_is_saved(classifier, data, tmp_path):
    interpret(classifier, data).save(tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out/losses.csv")) == 12
    tables = {"losses", "confusion_matrix", "report", "most_confused"}
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == tables
    assert Image.open(tmp_path / "out/top_losses.png").size > (100, 100)


def test_very_many_classes_have_a_row_an_image_but_no_matrix(trainer, tmp_path):
    names = [f"class {number}" for number in range(1001)]
    images = [(photo("red", number), 50 * number) for number in range(20)]
    data = ImageData.from_dataset(images, images, classes=names, size=64, num_workers=0)
    task = ImageClassifier("test_resnet", num_classes=1001, weights=False, lr=1e-6)
    trainer(1, limit_train_batches=1, limit_val_batches=0).fit(task, data)
    found = interpret(task, data)
    assert found.items["truth"].tolist() == [f"class {50 * number}" for number in range(20)]
    for table in (found.confusion_matrix, found.plot_confusion_matrix, found.most_confused, found.report):
        with pytest.raises(FinetuneError, match="Look at `items`"):
            table()
    found.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"losses.csv", "top_losses.png"}


def test_other_classes_are_refused(classifier, data):
    classifier.classes = ["red", "blue"]
    with pytest.raises(DataError, match=r"classes \['red', 'blue'\], got \['blue', 'red'\]"):
        interpret(classifier, data)


def test_a_model_that_never_saw_data_is_refused(data):
    with pytest.raises(FinetuneError, match="knows the size"):
        interpret(ImageClassifier("test_resnet", num_classes=2, weights=False), data)
    with pytest.raises(FinetuneError, match="ImageData, got list"):
        interpret(ImageClassifier("test_resnet", num_classes=2, weights=False), [])


def test_labels_are_judged_at_the_tasks_thresholds(trainer, tmp_path):
    names = [f"{k}.jpg" for k in range(8)]
    for number, name in enumerate(names):
        photo("red" if number % 2 else "blue", number).save(tmp_path / name)
    table = pd.DataFrame({"image": names, "tags": ["a b", "b", "a", "b c"] * 2, "valid": [False] * 4 + [True] * 4})
    task = MultiLabelClassifier("test_resnet", num_classes=3, weights=False, threshold=[0.4, 0.5, 0.6], lr=1e-6)
    data = ImageData.from_df(
        table, tmp_path, label_col="tags", image_col="image", valid_col="valid", label_delim=" ", size=64, num_workers=0
    )
    trainer(1, limit_val_batches=0).fit(task, data)
    found = interpret(task, data)
    encode = [[int(name in text.split()) for name in "abc"] for text in ["a b", "b", "a", "b c"]]
    said = [[int(name in text.split(";")) for name in "abc"] for text in found.items["prediction"]]
    assert [set(one.labels) for one in task.predict(list(found.items["file"]))] == [
        set(text.split(";")) for text in found.items["prediction"]
    ]
    assert (found.counts == multilabel_confusion_matrix(encode, said)).all()
    with pytest.raises(FinetuneError, match="labels"):
        found.most_confused()
    found.save(tmp_path / "out")
    assert not (tmp_path / "out/most_confused.csv").exists()


@pytest.fixture
def halves(tmp_path):
    """``train|val / *.png`` and ``masks / *.png``: class 1 where an image is bright, 255 in its first row."""
    draw = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    for split, count in (("train", 12), ("val", 5)):
        (tmp_path / split).mkdir()
        for number in range(count):
            mask = np.repeat(draw.integers(0, 2, (1, 64), dtype=np.uint8), 64, axis=0)
            pixels = (150 * mask[..., None] + draw.integers(0, 90, (64, 64, 3))).astype(np.uint8)
            mask[0] = 255
            Image.fromarray(pixels).save(tmp_path / split / f"{split}{number}.png")
            Image.fromarray(mask).save(tmp_path / "masks" / f"{split}{number}.png")
    return tmp_path


def test_binary_masks_are_learned_and_counted_without_what_is_ignored(halves, trainer):
    pl.seed_everything(0, verbose=False)
    data = ImageData.from_folder(
        halves, masks="masks", codes=["dark", "bright"], size=64, batch_size=4, num_workers=0, augment="none"
    )
    task = UNetSegmenter(backbone="resnet18", num_classes=2, weights=False, ignore_index=255, lr=3e-3)
    run = trainer(12)
    run.fit(task, data)
    assert run.callback_metrics["val_pixel_accuracy"] > 0.95
    found = interpret(task, data)
    said = [task.predict(file).mask for file in found.items["file"]]
    true = [np.array(Image.open(halves / "masks" / Path(file).name)) for file in found.items["file"]]
    counted = np.stack(true) != 255
    assert (found.counts == confusion_matrix(np.stack(true)[counted], np.stack(said)[counted])).all()
    shares = [(a == b)[1:].mean() for a, b in zip(true, said, strict=True)]
    np.testing.assert_allclose(found.items["pixel_accuracy"], shares, atol=1e-6)
    found.save(halves / "out")
    assert pd.read_csv(halves / "out/report.csv")["class"].tolist() == ["dark", "bright"]


def test_a_class_that_no_mask_shows_is_not_among_the_worst():
    task = UNetSegmenter(backbone="resnet18", num_classes=3, weights=False, ignore_index=2)
    counts = np.array([[5, 3, 1], [0, 4, 2], [0, 0, 0]])  # Void is predicted, and never true
    found = Interpretation(task, None, (64, 64), pd.DataFrame(), Confusion(counts, ["road", "sky", "Void"]))
    assert found.report().index.tolist() == ["road", "sky", "Void"]
    assert sorted(found.worst()["class"]) == ["road", "sky"]


class Squares(torch.nn.Module):
    """A loss of somebody's own, which remembers the largest images that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, logits[0].numel())
        wrong = logits.softmax(1) - torch.nn.functional.one_hot(target.clamp(max=1), 2).movedim(-1, 1)
        return wrong.square().mean()


LOSSES = ["ce", "focal", {"ce": 1.0, "dice": 0.5}, torch.nn.CrossEntropyLoss(ignore_index=255)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", [64, 128])
def test_large_images_are_judged_in_pieces_as_the_whole_is(halves, loss, side, monkeypatch):
    """A network whose field of view ends within the overlap; the loss of each image, the counts and the pictures."""
    whole, pieces = both(halves, loss, side, monkeypatch)
    np.testing.assert_allclose(pieces.items["loss"], whole.items["loss"], rtol=1e-4)


def test_a_loss_that_is_no_sum_over_pixels_is_that_of_parts(halves, monkeypatch):
    """It never sees all logits of a large image; this one adds up nearly so, as the parts are of about one size."""
    loss = Squares()
    with pytest.warns(UserWarning, match="Squares is no sum over pixels"):
        whole, pieces = both(halves, loss, 64, monkeypatch)
    np.testing.assert_allclose(pieces.items["loss"], whole.items["loss"], rtol=0.1)
    loss.most = 0
    with pytest.warns(UserWarning, match="Squares"):
        interpret(pieces.task, whole_data(halves), tile=64)
    assert 0 < loss.most < 200 * 160
    with pytest.warns(UserWarning, match=r"loss='lovasz' is no sum over pixels"):
        both(halves, "lovasz", 64, monkeypatch)


def whole_data(halves: Path) -> ImageData:
    return ImageData.from_folder(
        halves, masks="masks", codes=["dark", "bright"], size=(200, 160), batch_size=2, num_workers=0, augment="none"
    )


def both(halves: Path, loss, side: int, monkeypatch) -> tuple[Interpretation, Interpretation]:
    """Judged as a whole and in pieces; what must not depend on the loss is compared."""
    monkeypatch.setattr("lightning_finetune.tasks.shared.tiling.BAND", 4 * 2 * 200 * 5)  # five rows at a time
    monkeypatch.setattr("lightning_finetune.after.interpretation._SHOWN", 100)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3, padding=1))
    task = UNetSegmenter(net, num_classes=2, loss=loss, ignore_index=255)
    data = whole_data(halves)
    task.classes, task.preprocessing = [*data.classes], {**data.preprocessing(), "size": [64, 64]}
    whole, pieces = (interpret(task, data, tile=tile) for tile in (1024, side))
    np.testing.assert_allclose(pieces.items["pixel_accuracy"], whole.items["pixel_accuracy"], atol=1e-3)
    assert pieces.counts.sum() == whole.counts.sum()
    assert np.abs(pieces.counts - whole.counts).max() <= 4, "but for pixels on the edge of a decision"
    shown = pieces._shown(0, 1.0)
    assert shown.image.shape == (100, 80, 3)
    assert {mask.shape for mask in shown.masks} == {(100, 80)}
    return whole, pieces


def test_large_images_are_read_one_at_a_time(halves, monkeypatch):
    """Workers would hold several batches of them before they are asked for."""
    monkeypatch.setattr("lightning_finetune.after.interpretation.TILE", 128)
    whole, _ = both(halves, "ce", 64, monkeypatch)
    sizes: list[int] = []
    judge = type(whole.task).judge
    monkeypatch.setattr(
        type(whole.task),
        "judge",
        lambda self, images, *others: sizes.append(len(images)) or judge(self, images, *others),
    )
    monkeypatch.setattr(ImageData, "val_dataloader", lambda self: pytest.fail("it holds batches"))
    alone = interpret(whole.task, whole_data(halves), tile=1024)
    assert set(sizes) == {1}
    assert len(sizes) == len(whole.items) > 1
    pd.testing.assert_frame_equal(alone.items, whole.items, rtol=1e-4)
