import csv

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from lightning_finetune.callbacks import FineTune, LogConfusion
from lightning_finetune.engine.phases import Phase
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier
from tests.foreign import ForeignNet, loader, quiet_trainer


def table(path) -> np.ndarray:
    with (path / "confusion.csv").open() as file:
        return np.array([[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])


def test_counts_are_scikit_learns_over_the_whole_set_at_the_end_of_each_phase(tmp_path, data, monkeypatch):
    titles: list[str] = []
    written = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *to, **how: titles.append(self.get_suptitle()) or written(self, *to, **how)
    )
    pl.seed_everything(1, verbose=False)
    seen: list[np.ndarray] = []

    class Keep(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(table(tmp_path) if (tmp_path / "confusion.csv").exists() else np.zeros(0))

    task = ImageClassifier("test_resnet", num_classes=2, weights=False)
    phases = FineTune([Phase(2, "head", 1e-3), Phase(1, "all", 1e-3)])
    quiet_trainer(tmp_path, callbacks=[phases, LogConfusion(), Keep()]).fit(task, data)
    assert [counts.size for counts in seen] == [0, 4, 4], "at the end of epochs 1 and 2, those of the two phases"
    loader = data.val_dataloader()
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    with torch.no_grad():
        said = torch.cat([task.eval()(batch["image"]).argmax(1) for batch in batches])
    truth = torch.cat([batch["label"] for batch in batches])
    assert (seen[-1] == confusion_matrix(truth, said, labels=[0, 1])).all()
    with Image.open(tmp_path / "confusion.png") as picture:
        picture.load()
    assert titles == ["Confusion after epoch 2", "Confusion after epoch 3"]


def test_labels_are_counted_at_the_tasks_thresholds(tmp_path):
    torch.manual_seed(0)
    images, labels = torch.randn(12, 3, 32, 32), torch.randint(0, 2, (12, 3)).float()
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 5)
    task = MultiLabelClassifier("test_resnet", num_classes=3, weights=False, threshold=[0.45, 0.5, 0.55])
    quiet_trainer(tmp_path, callbacks=[LogConfusion()]).validate(task, batches, verbose=False)
    with torch.no_grad():
        said = task.eval()(images).sigmoid() > torch.tensor([0.45, 0.5, 0.55])
    assert (table(tmp_path).reshape(3, 2, 2) == multilabel_confusion_matrix(labels, said)).all()


def test_too_many_classes_are_told_once_and_not_counted(tmp_path, caplog):
    torch.manual_seed(0)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.randint(0, 1001, (8,))), 8
    )
    task = ImageClassifier("test_resnet", num_classes=1001, weights=False)
    quiet_trainer(tmp_path, callbacks=[LogConfusion()], max_epochs=1).fit(task, batches, batches)
    assert (
        caplog.text.count("LogConfusion shows nothing: ImageClassifier tells no classes apart, or more than 1000") == 1
    )
    assert not (tmp_path / "confusion.csv").exists()


def test_other_modules_are_told_once(tmp_path, caplog):
    quiet_trainer(tmp_path, callbacks=[LogConfusion()], max_epochs=2).fit(ForeignNet(), loader(), loader(16))
    assert caplog.text.count("LogConfusion shows nothing: ForeignNet is no task") == 1
    assert not (tmp_path / "confusion.csv").exists()


@pytest.mark.slow
def test_two_processes_count_every_image_once(tmp_path):
    import subprocess
    import sys

    code = f"""
import torch, lightning.pytorch as pl
from torch.utils.data import DataLoader, TensorDataset
from lightning_finetune.callbacks import LogConfusion
from lightning_finetune.engine.processes import leave_group
from lightning_finetune.tasks import ImageClassifier
torch.manual_seed(0)
data = TensorDataset(torch.randn(10, 3, 32, 32), torch.arange(10) % 2)
task = ImageClassifier("test_resnet", num_classes=2, weights=False)
pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, default_root_dir={str(tmp_path)!r},
    callbacks=[LogConfusion()], enable_progress_bar=False).validate(task, DataLoader(data, 2), verbose=False)
leave_group()
"""
    (tmp_path / "run.py").write_text(code)
    subprocess.run([sys.executable, tmp_path / "run.py"], check=True, timeout=120)
    assert table(tmp_path).sum() == 10
    assert table(tmp_path).sum(1).tolist() == [5, 5]
