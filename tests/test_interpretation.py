import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix, precision_recall_fscore_support

from lightning_finetune import interpret
from lightning_finetune.data.image_data import ImageData
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier
from tests.tasks.conftest import data, folder, photo, trainer

__all__ = ["data", "folder", "trainer"]  # the fixtures


@pytest.fixture
def classifier(trainer, data):
    torch.manual_seed(0)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, lr=1e-6)
    trainer(1, limit_train_batches=1, limit_val_batches=0).fit(task, data)
    return task


def test_classes_are_counted_as_scikit_learn_counts_them(classifier, data, folder):
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


def test_all_is_saved(classifier, data, tmp_path):
    interpret(classifier, data).save(tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out/losses.csv")) == 12
    tables = {"losses", "confusion_matrix", "report", "most_confused"}
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == tables
    assert Image.open(tmp_path / "out/top_losses.png").size > (100, 100)


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
    said = [[int(name in text.split()) for name in "abc"] for text in found.items["prediction"]]
    assert [set(one.labels) for one in task.predict(list(found.items["file"]))] == [
        set(text.split()) for text in found.items["prediction"]
    ]
    assert (found.counts == multilabel_confusion_matrix(encode, said)).all()
    with pytest.raises(FinetuneError, match="labels"):
        found.most_confused()
    found.save(tmp_path / "out")
    assert not (tmp_path / "out/most_confused.csv").exists()
