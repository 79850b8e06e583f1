import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn

from lightning_finetune.after.loading import load
from lightning_finetune.data.image_data import ImageData
from lightning_finetune.errors import CheckpointError, DataError
from lightning_finetune.tasks import ImageClassifier
from tests.tasks.photos import photo


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A task trained for a moment, and its checkpoint."""
    torch.manual_seed(0)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, lr=1e-4)
    data = ImageData.from_folder(folder, size=(64, 56), batch_size=8, num_workers=0, augment="none")
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(task, data)
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    trainer.save_checkpoint(path)
    return task, path, data, trainer


def tampered(path, tmp_path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "tampered.ckpt")
    return tmp_path / "tampered.ckpt"


def test_round_trip_predicts_the_same_as_validation(trained, folder):
    task, path, data, _ = trained
    loaded = load(path)
    assert type(loaded) is ImageClassifier
    assert not loaded.training
    assert loaded.classes == ["blue", "red"]
    files = sorted((folder / "valid").rglob("*.jpg"))
    found = loaded.predict(folder / "valid")
    assert [prediction.source for prediction in found] == files
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    validated = torch.cat([task.eval().predict_step(batch, 0) for batch in batches])
    ours = torch.tensor([[p.probabilities["blue"], p.probabilities["red"]] for p in found])
    torch.testing.assert_close(ours, validated, rtol=1e-4, atol=1e-5)


def test_a_prediction_is_ranked(trained):
    prediction = load(trained[1]).predict(photo("red", 7))
    assert prediction.label == next(iter(prediction.probabilities))
    assert prediction.probability == max(prediction.probabilities.values())
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.source is None


def test_every_kind_of_source(trained, tmp_path):
    task = load(trained[1])
    image = photo("blue", 5)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), image, array, tensor]
    probabilities = [task.predict(source).probability for source in sources]
    assert probabilities == pytest.approx([probabilities[0]] * 5)
    assert [p.probability for p in task.predict(sources, batch_size=2)] == pytest.approx(probabilities, abs=1e-5)


def test_augmentation_at_test_time_is_the_mean_of_both_ways(trained):
    task, image = load(trained[1]), photo("red", 11)
    each = [task.predict(way).probabilities["red"] for way in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    assert task.predict(image, tta="flip").probabilities["red"] == pytest.approx(sum(each) / 2, abs=1e-5)
    assert each[0] != each[1]


def test_predicting_while_training_leaves_the_mode(trained):
    task = trained[0].train()
    task.predict(photo("red", 1))
    assert task.training


def test_bad_images_are_all_named(trained, tmp_path):
    photo("red", 1).save(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"2 of 3 images.*(\n.*)*bad\.jpg.*(\n.*)*empty\.png"):
        load(trained[1]).predict(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="found none in it"):
        load(trained[1]).predict(tmp_path / "none")


def test_a_users_module_must_be_given_again(folder, tmp_path, trained):
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    task = ImageClassifier(net(), num_classes=2, loss=nn.CrossEntropyLoss(torch.ones(2)))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(task, trained[2])
    trainer.save_checkpoint(path := tmp_path / "own.ckpt")
    with pytest.raises(CheckpointError, match="model=my_module"):
        load(path)
    assert load(path, model=net()).predict(photo("red", 3)) == task.predict(photo("red", 3))
    with pytest.raises(CheckpointError, match="not those of the model"):
        load(path, model=nn.Conv2d(3, 8, 5))


def test_a_subclass_is_rebuilt_as_itself(trained, tmp_path):
    class Reds(ImageClassifier):
        def __init__(self, threshold: float = 0.5, **options) -> None:
            super().__init__(**options)
            self.threshold = threshold

    task = Reds(0.25, model="test_resnet", num_classes=2, weights=False)
    trainer = Trainer(max_epochs=0, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(task, trained[2])
    trainer.save_checkpoint(tmp_path / "reds.ckpt")
    loaded = load(tmp_path / "reds.ckpt")
    assert type(loaded) is Reds
    assert loaded.threshold == 0.25


def test_truncated_and_foreign_files(trained, tmp_path):
    whole = trained[1].read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path / "cut.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2"}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"a task of lightning_finetune wrote.*weights='.*foreign\.ckpt'"):
        load(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["lightning_finetune"].update(version=99), "later lightning_finetune"),
        (lambda c: c["lightning_finetune"].update(task="ImageClasifier"), "Did you mean 'ImageClassifier'"),
        (lambda c: c["lightning_finetune"].update(arguments=[1]), "damaged"),
        (lambda c: c.update(lightning_finetune="x"), "damaged"),
        (lambda c: c["lightning_finetune"]["arguments"].update(num_classes=3), "2 names of 3 classes"),
        (
            lambda c: c["lightning_finetune"].update(
                arguments={**c["lightning_finetune"]["arguments"], "num_classes": 3}, classes=["a", "b", "c"]
            ),
            "other shapes",
        ),
        (lambda c: c["lightning_finetune"]["arguments"].update(head="x"), "cannot be rebuilt"),
        (lambda c: c["state_dict"].pop("model.head.1.weight"), "model.head.1.weight"),
        (lambda c: c.update(state_dict=3), "damaged"),
    ],
)
def test_tampered_files(trained, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(tampered(trained[1], tmp_path, change))


def test_weights_of_a_checkpoint_start_another_task(trained):
    task = ImageClassifier("test_resnet", num_classes=5, weights=str(trained[1]))
    name = "backbone.layer2.0.conv1.weight"
    assert torch.equal(task.model.get_parameter(name), trained[0].model.get_parameter(name))
