"""Checkpoints of strangers: what cannot be right ends in one sentence, and nothing is asked of a network."""

import socket
import zipfile

import pytest
import torch

from lightning_finetune import ImageClassifier, MultiLabelClassifier, load
from lightning_finetune.errors import CheckpointError
from lightning_finetune.tasks.shared import record

PREPROCESSING = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "crop", "channels": 3}


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint of a task, with changes to its record and its weights."""

    def write(cls=ImageClassifier, weights=None, arguments=None, **changes):
        task = cls("test_resnet", num_classes=3, weights=False)
        task.preprocessing = PREPROCESSING
        kept = {**record.make_record(cls.__name__, task.hparams, task.learned()), "kind": task.kind}
        kept = {**kept, **changes, "arguments": {**kept["arguments"], **(arguments or {})}}
        path = tmp_path / "task.ckpt"
        torch.save({"state_dict": {**task.state_dict(), **(weights or {})}, record.KEY: kept}, path)
        return path

    return write


def test_what_was_written_is_loaded(written):
    assert load(written()).preprocessing == PREPROCESSING
    assert load(written(MultiLabelClassifier)).thresholds == [0.2] * 3


def without(name):
    return {key: value for key, value in PREPROCESSING.items() if key != name}


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": {"num_classes": 10**9}},
        {"arguments": {"num_classes": "three"}},
        {"arguments": {"num_classes": True}},
        {"arguments": {"in_channels": 10**8}},
        {"arguments": {"dropout": "much"}},
        {"arguments": {"head": ["linear"]}},
        {"arguments": {"model": 3}},
        {"arguments": {"weights": "/etc/passwd"}},
        {"classes": ["a"]},
        {"classes": [1, 2, 3]},
        {"preprocessing": "junk"},
        {"preprocessing": {**PREPROCESSING, "size": [10**6, 10**6]}},
        {"preprocessing": {**PREPROCESSING, "size": "big"}},
        {"preprocessing": {**PREPROCESSING, "size": [32.5, 32]}},
        {"preprocessing": {**PREPROCESSING, "size": [32]}},
        {"preprocessing": {**PREPROCESSING, "mean": [0.5]}},
        {"preprocessing": {**PREPROCESSING, "std": [0.0] * 3}},
        {"preprocessing": {**PREPROCESSING, "std": [float("nan")] * 3}},
        {"preprocessing": {**PREPROCESSING, "resize": "none"}},
        {"preprocessing": {**PREPROCESSING, "channels": -1}},
        {"preprocessing": {**PREPROCESSING, "white": 0}},
        {"weights": {"model.head.8.weight": "no tensor"}},
        {"weights": {"extra": torch.zeros(1).expand(10**9)}},
    ],
)
def test_a_record_that_cannot_be_right_is_refused(written, changes):
    with pytest.raises(CheckpointError, match=r"task\.ckpt"):
        load(written(**changes))


@pytest.mark.parametrize("thresholds", [[0.5], [2.0] * 3, "high", [None] * 3])
def test_thresholds_are_one_for_each_label(written, thresholds):
    with pytest.raises(CheckpointError, match="thresholds"):
        load(written(MultiLabelClassifier, thresholds=thresholds))


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet10t.c3_in1k", "hf_hub:a/b", "local-dir:/tmp"])
def test_no_hub_is_asked(written, name, monkeypatch):
    def asked(*args: object, **options: object) -> None:
        raise AssertionError("a network was asked")

    path = written(arguments={"model": name})
    monkeypatch.setattr(socket, "create_connection", asked)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    with pytest.raises(CheckpointError, match="never asks"):
        load(path)


def test_a_file_that_unpacks_to_more_than_memory_is_not_unpacked(written, tmp_path):
    with zipfile.ZipFile(written()) as whole, zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, whole.read(part) + b"\0" * 10**7 * part.filename.endswith("data/0"))
    with pytest.raises(CheckpointError, match=r"b\.ckpt"):
        load(tmp_path / "b.ckpt")
