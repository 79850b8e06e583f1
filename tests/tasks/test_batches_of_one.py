"""A batch of one image is measured and predicted like any other, by every task."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_finetune import FineTune, LogConfusion, LogPredictions, RunReport
from lightning_finetune.errors import DataError
from tests.foreign import quiet_trainer
from tests.tasks.subjects import TASKS, batches


def loader(kind: str, size: int) -> DataLoader:
    return DataLoader(batches(kind, 5).dataset, size)


@pytest.mark.parametrize("step", ["validate", "test"])
@pytest.mark.parametrize("name", TASKS)
def test_measures_are_those_of_one_batch_of_all(tmp_path, name, step):
    torch.manual_seed(0)
    task = TASKS[name]()
    found = [getattr(quiet_trainer(tmp_path), step)(task, loader(task.kind, size), verbose=False) for size in (1, 4, 5)]
    measured = len(found[0][0])
    assert measured > 2
    for other in found[1:]:
        assert other[0] == pytest.approx(found[0][0], rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_with_all_its_callbacks_ends_on_one(tmp_path, name):
    task = TASKS[name]()
    callbacks = [FineTune(head_epochs=1, full_epochs=0, find=False), LogPredictions(3), LogConfusion(), RunReport()]
    trainer = quiet_trainer(tmp_path, callbacks=callbacks)
    trainer.fit(task, loader(task.kind, 5), loader(task.kind, 4))
    assert (tmp_path / "report.html").is_file()
    assert [len(rows) for rows in trainer.predict(task, loader(task.kind, 4))] == [4, 1]


@pytest.mark.parametrize("size", [1, 4])
def test_what_cannot_train_on_one_image_says_what_to_do(tmp_path, size):
    task = TASKS["ImageClassifier"]()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    with pytest.raises(DataError, match="batch_size: expected at least 2"):
        trainer.fit(task, loader("single", size), loader("single", size))
