import math
from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from lightning_finetune.data import ImageData
from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import ImageClassifier

TINY = {"model": "test_resnet", "num_classes": 2, "weights": False}


def task(**options) -> ImageClassifier:
    return ImageClassifier(**{**TINY, **options})


def loader(count: int) -> DataLoader:
    """Tuples, as of a foreign data set."""
    return DataLoader(TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(0, 2, (count,))), 4)


def test_learns_red_from_blue(data, trainer):
    seed_everything(0, verbose=False)
    run = trainer(epochs=4)
    run.fit(task(lr=1e-2), data)
    assert run.callback_metrics["val_error_rate"] == 0
    assert run.callback_metrics["val_accuracy"] == 1


def test_logged_names_and_progress_bar(data, trainer):
    run = trainer(enable_progress_bar=True)
    run.fit(task(), data)
    assert {"train_loss", "val_loss", "val_error_rate", "val_accuracy"} <= run.callback_metrics.keys()
    assert run.progress_bar_metrics.keys() == {"train_loss", "val_loss", "val_error_rate"}
    assert [*trainer().test(run.lightning_module, loader(8), verbose=False)[0]] == [
        "test_loss",
        "test_error_rate",
        "test_accuracy",
    ]


def test_val_loss_is_the_mean_over_images(data, trainer):
    seed_everything(0, verbose=False)
    classifier = task()
    run = trainer()
    (values,) = run.validate(classifier, data, verbose=False)  # 12 images in batches of 8 and 4, or alike
    batches = list(data.val_dataloader())
    images, labels = (
        torch.cat([data.on_after_batch_transfer(b, 0)[key] for b in batches]) for key in ("image", "label")
    )
    with torch.no_grad():
        logits = classifier.eval()(images)
    assert values["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert values["val_error_rate"] == pytest.approx((logits.argmax(1) != labels).float().mean().item())


def test_resuming_on_other_sizes_keeps_the_new_size(data, folder, trainer, tmp_path):
    run = trainer()
    run.fit(task(), data)
    run.save_checkpoint(tmp_path / "small.ckpt")
    larger, classifier = ImageData.from_folder(folder, size=96, batch_size=8, num_workers=0), task()
    trainer(epochs=2).fit(classifier, larger, ckpt_path=tmp_path / "small.ckpt", weights_only=True)
    assert classifier.preprocessing["size"] == [96, 96]


def test_layer_groups_end_with_the_head_and_hold_every_parameter_once():
    classifier = task(loss=LearnedTemperature())
    groups = layer_groups(classifier)
    assert len(groups) >= 4
    assert groups[-1].name == "head"
    head = {id(p) for p in (*classifier.model.head.parameters(), *classifier.criterion.parameters())}
    assert {id(p) for p in groups[-1].params} == head
    claimed = [id(p) for group in groups for p in group.params]
    assert sorted(claimed) == sorted(id(p) for p in classifier.parameters())


class LearnedTemperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1))

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits * self.log.exp(), labels)


def test_loss_by_argument_and_by_overriding():
    class Mine(ImageClassifier):
        def configure_losses(self):
            return nn.MultiMarginLoss()

    default = task(label_smoothing=0.1, class_weights=[1.0, 3.0]).criterion
    assert (type(default), default.label_smoothing, default.weight.tolist()) == (nn.CrossEntropyLoss, 0.1, [1.0, 3.0])
    assert isinstance(task(loss=nn.NLLLoss()).criterion, nn.NLLLoss)
    assert isinstance(Mine(**TINY).criterion, nn.MultiMarginLoss)
    with pytest.raises(FinetuneError, match="`label_smoothing`"):
        task(loss=nn.NLLLoss(), label_smoothing=0.1)


def test_metrics_replace_the_defaults(data, trainer):
    (values,) = trainer().validate(task(metrics={"f1": MulticlassF1Score(2, average=None)}), data, verbose=False)
    assert [*values] == ["val_loss", "val_f1_0", "val_f1_1"]


def test_channels_last():
    classifier = task()
    assert classifier.model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        classifier.eval()(images := torch.rand(2, 3, 40, 40)),
        classifier.model.to(memory_format=torch.contiguous_format)(images),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("module", "head"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), "AdaptiveAvgPool2d"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "Dropout"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), None),
    ],
)
def test_modules_of_the_user(module, head):
    classifier = task(model=module)
    assert classifier(torch.rand(2, 3, 40, 40)).shape == (2, 2)
    first = next(classifier.model.head.children(), None)
    assert (first and type(first).__name__) == head
    assert len(layer_groups(classifier)) >= 2


def test_wrong_arguments():
    with pytest.raises(FinetuneError, match="`num_classes`, the number of classes, got None"):
        ImageClassifier("test_resnet", weights=False)
    with pytest.raises(FinetuneError, match=r"`dropout` in \[0, 1\), got 1.5"):
        task(dropout=1.5)
    with pytest.raises(FinetuneError, match=r"`head`.*Did you mean 'linear'"):
        task(head="liner")


def test_class_count_against_the_data(data, trainer):
    with pytest.raises(DataError, match=r"The model has 3 classes .* the data 2"):
        trainer().fit(task(num_classes=3), data)


def test_labels_out_of_range_are_named_before_training(trainer):
    images = TensorDataset(torch.randn(8, 3, 32, 32), torch.tensor([0, 1, 5, 1, 0, 0, 1, 1]))
    run = trainer()
    with pytest.raises(DataError, match=r"labels 0 to 1 \(num_classes=2\), got 0 to 5. Give num_classes=6"):
        run.fit(task(), DataLoader(images, 4), DataLoader(images, 4))
    assert run.global_step == 0


class Poison(nn.CrossEntropyLoss):
    """Gives NaN from the fourth training batch on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, logits, labels):
        self.calls += torch.is_grad_enabled()
        return super().forward(logits, labels) * (math.nan if self.calls > 3 else 1)


def test_nan_loss_names_batch_rate_and_phase(trainer):
    run = trainer()
    with pytest.raises(FinetuneError, match=r"batch 3 of epoch 1 \(layer groups conv1 to head train\).*rate 0.003\."):
        run.fit(task(loss=Poison()), loader(24))


def test_hyper_parameters_are_plain(data, trainer, tmp_path):
    keep = ModelCheckpoint(tmp_path, "kept")
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    classifier = task(model=module, optimizer=partial(SGD, momentum=0.9), metrics=[MulticlassF1Score(2)])
    trainer(callbacks=[keep], enable_checkpointing=True).fit(classifier, data)
    content = torch.load(keep.best_model_path, weights_only=True)
    assert content["hyper_parameters"]["num_classes"] == 2
    assert content["hyper_parameters"].keys().isdisjoint({"model", "optimizer", "metrics"})


def test_lightnings_own_loading_needs_no_other_weights(trainer, tmp_path):
    torch.save(task().model.backbone.state_dict(), tmp_path / "gone.pt")
    started = ImageClassifier("test_resnet", num_classes=2, weights=str(tmp_path / "gone.pt"))
    run = trainer(epochs=0)
    run.fit(started, loader(4))
    run.save_checkpoint(tmp_path / "own.ckpt")
    (tmp_path / "gone.pt").unlink()
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert torch.equal(loaded.model.head[-1].weight, started.model.head[-1].weight)


def test_from_the_command_line():
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(ImageClassifier, "model")
    arguments = ["--model.model=test_resnet", "--model.num_classes=4", "--model.weights=false", "--model.lr=1e-2"]
    arguments += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.7", "--model.head=linear"]
    config = parser.instantiate_classes(parser.parse_args(arguments))
    assert config.model.model.head[-1].out_features == 4
    assert all(group["momentum"] == 0.7 for group in config.model.configure_optimizers().param_groups)


def labelled(labels: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(len(labels), 3, 32, 32), labels), 4)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0.0, 1.0] * 4), r"got \[4\] of float32"),
        (torch.tensor([[0], [1]] * 4), r"got \[4, 1\] of int64"),
        (torch.eye(2).long().repeat(4, 1), r"got \[4, 2\] of int64"),
        (torch.rand(8, 3), r"got \[4, 3\] of float32"),
        (torch.tensor([[0.5, 1.5]] * 8), r"add up to 1 .* \[0.5, 1.5\]"),
        (torch.tensor([0, -1] * 4), "Leave out images without a label"),
        (torch.tensor([0, 2] * 4), "Give num_classes=3"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_labels_of_another_form_are_named_with_and_without_validation(trainer, labels, words, alone):
    with pytest.raises(DataError, match=words):
        trainer().fit(task(), labelled(labels), *([] if alone else [labelled(labels)]))


def test_shares_are_measured_by_the_largest(trainer):
    classifier, shares = task().eval(), torch.eye(2)[[0, 1, 1, 0, 1, 0, 0, 0]]
    images = torch.randn(8, 3, 32, 32)
    (found,) = trainer().validate(classifier, DataLoader(TensorDataset(images, 0.8 * shares + 0.1), 4), verbose=False)
    with torch.no_grad():
        right = (classifier(images).argmax(1) == shares.argmax(1)).float().mean()
    assert found["val_accuracy"] == pytest.approx(float(right))


def test_batches_of_transformers_are_known(trainer):
    items = [{"pixel_values": torch.randn(3, 32, 32), "labels": number % 2} for number in range(8)]
    (found,) = trainer().validate(task(), DataLoader(items, 4), verbose=False)
    assert found["val_loss"] > 0


class Flat(nn.Module):
    """A layer over the mean of an image."""

    def __init__(self, inside: int, outputs: int):
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, inside, 3), nn.Linear(inside, outputs)

    def forward(self, images):
        return self.fc(self.first(images).mean((2, 3)))


def test_a_head_on_top_of_a_head_is_told():
    with pytest.warns(UserWarning, match="linear layer of 5 outputs, and a new head of 2"):
        task(model=Flat(8, 5))
    for model in (Flat(8, 2), Flat(8, 8), nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())):
        task(model=model)  # outputs of its own, a projection, features
