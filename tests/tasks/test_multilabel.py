import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, fbeta_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.after.loading import load
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import MultiLabelClassifier


def task(**options) -> MultiLabelClassifier:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return MultiLabelClassifier(**{"model": net, "num_classes": 3, **options})


def loader(count: int = 12, seed: int = 0) -> DataLoader:
    """Each label is a colour channel that is bright."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (count, 3), generator=generator).float()
    images = torch.rand(count, 3, 16, 16, generator=generator) + target[:, :, None, None]
    return DataLoader(TensorDataset(images, target), 5)


def test_numbers_are_scikit_learns(trainer):
    torch.manual_seed(0)
    classifier, run = task(), trainer()
    (values,) = run.validate(classifier, loader(), verbose=False)
    images, target = loader().dataset.tensors
    with torch.no_grad():
        logits = classifier.eval()(images)
    p = logits.sigmoid()
    assert values["val_loss"] == pytest.approx(nn.functional.binary_cross_entropy_with_logits(logits, target).item())
    theirs = fbeta_score(target, p > 0.2, beta=2, average="samples", zero_division=0)
    assert values["val_f2"] == pytest.approx(theirs, abs=1e-6)
    assert values["val_map"] == pytest.approx(average_precision_score(target, p, average="macro"), abs=1e-6)
    each = ((p > 0.2) == target.bool()).float().mean(0)
    assert [values[f"val_label_accuracy_{label}"] for label in range(3)] == pytest.approx(each.tolist())
    assert values["val_accuracy"] == pytest.approx(each.mean().item())


@pytest.mark.parametrize(("labels", "others"), [(100, {"map", "label_accuracy"}), (101, {"map"}), (1001, set())])
def test_of_very_many_labels_only_what_is_one_number_is_measured_and_said(labels, others, caplog):
    with caplog.at_level("INFO"):
        classifier = MultiLabelClassifier(nn.Flatten(), num_classes=labels, head="linear", weights=False)
    assert set(classifier.val_measures.metrics.keys(keep_base=True)) == {"f2", "accuracy", *others}
    assert (f"{labels} labels are too many to measure each" in caplog.text) == (labels > 100)


def test_progress_bar_shows_loss_and_f2(trainer):
    run = trainer()
    run.fit(task(), loader(), loader())
    assert run.progress_bar_metrics.keys() == {"val_loss", "val_f2"}


def test_learns(trainer):
    torch.manual_seed(0)
    run = trainer(epochs=30)
    run.fit(task(lr=0.03, weight_decay=0.0, threshold=0.5), loader(120), loader(20, seed=1))
    assert run.callback_metrics["val_accuracy"] > 0.95


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_losses_by_name_pass_their_arguments_on(name):
    criterion = task(loss=name, pos_weight=[1.0, 2.0, 3.0], label_smoothing=0.1).criterion
    assert criterion.pos_weight.tolist() == [1.0, 2.0, 3.0]
    assert criterion.label_smoothing == 0.1
    assert isinstance(task(loss=nn.MultiLabelSoftMarginLoss()).criterion, nn.MultiLabelSoftMarginLoss)


@pytest.mark.parametrize("how", ["tuned", "tuned_per_label"])
def test_tuned_thresholds_are_kept_and_used(trainer, tmp_path, how):
    torch.manual_seed(0)
    classifier, run = (
        MultiLabelClassifier("test_resnet", num_classes=3, weights=False, threshold=how),
        trainer(epochs=2),
    )
    assert classifier.thresholds == [0.2] * 3
    run.fit(classifier, loader(), loader())
    found = classifier.thresholds
    assert found != [0.2] * 3
    assert (len(set(found)) == 1) == (how == "tuned")
    run.save_checkpoint(tmp_path / "tuned.ckpt")
    loaded = load(tmp_path / "tuned.ckpt")
    assert loaded.thresholds == found
    loaded.preprocessing = {"size": [16, 16], "mean": [0.0] * 3, "std": [1.0] * 3, "resize": "crop"}
    prediction = loaded.predict(Image.fromarray(np.full((16, 16, 3), 200, np.uint8)))
    limits = dict(zip(loaded.classes, found, strict=True))
    assert set(prediction.labels) == {name for name, p in prediction.probabilities.items() if p > limits[name]}
    (values,) = trainer().test(loaded, loader(), verbose=False)
    (fixed,) = trainer().validate(loaded, loader(), verbose=False)
    images, target = loader().dataset.tensors
    with torch.no_grad():
        p = loaded.eval()(images).sigmoid()
    theirs = fbeta_score(target, p > torch.tensor(found), beta=2, average="samples", zero_division=0)
    assert values["test_f2"] == pytest.approx(theirs, abs=1e-6)
    at_fixed = fbeta_score(target, p > 0.2, beta=2, average="samples", zero_division=0)
    assert fixed["val_f2"] == pytest.approx(at_fixed, abs=1e-6)


def test_thresholds_of_the_user():
    assert task(threshold=[0.1, 0.5, 0.9]).thresholds == [0.1, 0.5, 0.9]
    for wrong in ([0.5, 0.5], 1.5, 0.0):
        with pytest.raises(FinetuneError, match="`threshold` to be one number"):
            task(threshold=wrong)
    with pytest.raises(FinetuneError, match="Did you mean 'tuned'"):
        task(threshold="tune")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1]), r"targets \[B, 3\].*got shape \[2\]"),
        (torch.zeros(2, 4), r"got shape \[2, 4\]"),
        (torch.full((2, 3), 2.0), "0 and 1, got 2 to 2"),
    ],
)
def test_targets_that_do_not_fit(target, message):
    with pytest.raises(DataError, match=message):
        task().check_target(target)
