import json

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError

from lightning_finetune import LogConfusion, LogPredictions
from lightning_finetune.errors import DataError
from lightning_finetune.tasks import BaseTask, ImageClassifier
from tests import forking
from tests.foreign import quiet_trainer
from tests.tasks.uneven import validate


def test_uneven_ranks_measure_what_one_process_does(tmp_path):
    done = forking.run("-m", "tests.tasks.uneven", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = validate(tmp_path), json.loads((tmp_path / "two.json").read_text())
    assert two == pytest.approx(one, rel=1e-5)
    assert one.keys() == {"val_loss", "val_f1"}


def test_each_epoch_is_measured_anew(tmp_path):
    torch.manual_seed(0)
    images, net = torch.randn(6, 3, 16, 16), nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    good, bad = (DataLoader(TensorDataset(images, labels), 6) for labels in best_and_worst(net, images))
    task = ImageClassifier(net, num_classes=3)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    found = [trainer.validate(task, loader, verbose=False)[0]["val_error_rate"] for loader in (good, bad, good)]
    assert found == [0, 1, 0]


def best_and_worst(net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits = net(images)
    return logits.argmax(1), logits.argmin(1)


class OwnTask(BaseTask):
    """As somebody writes one who knows but the template methods."""

    kind = "number"

    def __init__(self, *, num_classes=1, in_channels=3, lr=0.0, weight_decay=0.0, optimizer=torch.optim.SGD):
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.build({**locals(), "metrics": None})

    def configure_models(self):
        return nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def configure_losses(self):
        return nn.MSELoss()

    def configure_metrics(self):
        return {"mae": MeanAbsoluteError()}

    def describe(self, predictions, source):
        return float(predictions)


def test_a_task_of_ones_own_with_numbers_as_targets_is_measured_right_and_shown(tmp_path, caplog):
    torch.manual_seed(0)
    images, numbers = torch.randn(6, 3, 16, 16), torch.rand(6, 1)
    task, loader = OwnTask(), DataLoader(TensorDataset(images, numbers), 4)
    trainer = quiet_trainer(tmp_path, callbacks=[LogConfusion(), LogPredictions(2)], max_epochs=1)
    trainer.fit(task, loader, loader)
    with torch.no_grad():
        expected = (task.eval()(images) - numbers).abs().mean()
    assert trainer.callback_metrics["val_mae"] == pytest.approx(expected.item())
    assert "LogConfusion shows nothing: OwnTask tells no classes apart" in caplog.text
    assert (tmp_path / "predictions.png").is_file()


def test_data_of_another_kind_names_the_task_for_it():
    class Masks:
        kind = "mask"

    with pytest.raises(DataError, match=r"kind 'single', got 'mask'. Train it with SemanticSegmenter"):
        ImageClassifier(nn.Flatten(), num_classes=2).check_data(Masks())


@pytest.mark.parametrize("act", ["validate", "fit"])
def test_other_classes_of_the_same_number_are_refused(data, trainer, tmp_path, act):
    task = ImageClassifier("test_resnet", num_classes=2, weights=False)
    run = trainer(1, limit_train_batches=1)
    run.fit(task, data)
    run.save_checkpoint(tmp_path / "end.ckpt")
    message = r"Expected `data` with the classes \['blue', 'red'\], got \['bird', 'fish'\]"
    data.classes = ["bird", "fish"]
    with pytest.raises(DataError, match=message):
        getattr(trainer(2), act)(task, data)
    fresh = ImageClassifier("test_resnet", num_classes=2, weights=False)
    with pytest.raises(DataError, match=message):
        getattr(trainer(2), act)(fresh, data, ckpt_path=tmp_path / "end.ckpt", weights_only=True)
