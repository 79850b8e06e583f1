import pytest
import torch
from torch import nn

from lightning_finetune.errors import CheckpointError
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier
from lightning_finetune.tasks.shared.record import accepted_arguments, make_record


def test_a_record_keeps_what_rebuilds_a_task_for_use():
    arguments = {
        "model": "resnet18",
        "loss": {"ce": 1.0},
        "weights": "file.pt",
        "metrics": None,
        "optimizer": {"class_path": "torch.optim.SGD"},
        "head": nn.ReLU(),
        "_class_path": "x.Task",
        "_instantiator": "y",
    }
    record = make_record("Task", arguments, {"classes": ["a"]})
    assert record["arguments"] == {"model": "resnet18", "loss": {"ce": 1.0}}
    assert record["classes"] == ["a"]


def test_objects_made_by_the_command_line_are_not_taken_for_values():
    configured = {
        "model": {"class_path": "torch.nn.Conv2d", "init_args": {}},
        "loss": {"class_path": "torch.nn.L1Loss"},
    }
    assert make_record("Task", configured, {})["arguments"] == {}


def test_only_accepted_arguments_are_passed_on():
    class Narrow:
        def __init__(self, depth: int) -> None: ...

    class Wide(Narrow):
        def __init__(self, depth: int, **options: int) -> None: ...

    record = {"arguments": {"depth": 2, "num_classes": 3}}
    assert accepted_arguments(Narrow, record["arguments"]) == {"depth": 2}
    assert accepted_arguments(Wide, record["arguments"]) == {"depth": 2, "num_classes": 3}


def test_a_checkpoint_of_another_task_is_named(trainer, data, tmp_path):
    run = trainer(1, limit_train_batches=1, limit_val_batches=0)
    run.fit(ImageClassifier("test_resnet", num_classes=2, weights=False), data)
    run.save_checkpoint(tmp_path / "one.ckpt")
    labels = MultiLabelClassifier("test_resnet", num_classes=2, weights=False)
    with pytest.raises(CheckpointError, match="a checkpoint of MultiLabelClassifier, got one of ImageClassifier"):
        trainer(1).validate(labels, [torch.zeros(1)], ckpt_path=tmp_path / "one.ckpt")
    other = ImageClassifier("test_resnet", num_classes=3, weights=False)
    with pytest.raises(
        CheckpointError, match=r"model\.head\.1\.weight is \[2, .*\] there and \[3, .*\] here, as are 1 more"
    ):
        trainer(1).validate(other, [torch.zeros(1)], ckpt_path=tmp_path / "one.ckpt")
