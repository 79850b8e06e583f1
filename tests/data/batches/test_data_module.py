"""The data module in a real Trainer: in one process, in two, with workers, and after a stop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_finetune.data import ImageData, ImageItems
from lightning_finetune.errors import DataError
from tests import forking
from tests.data.images import fill
from tests.data.runs import Recorder, quiet


def insects_data(root: Path, **options) -> ImageData:
    return ImageData.from_folder(root, **{"size": 32, "batch_size": 4, "num_workers": 0, **options})


def fitted(root: Path, trainer_options: dict | None = None, predict: bool = False, **options) -> Recorder:
    model, data, trainer = Recorder(), insects_data(root, **options), quiet(**(trainer_options or {}))
    trainer.fit(model, datamodule=data)
    if predict:
        trainer.predict(model, datamodule=data)
    return model


@pytest.fixture(scope="module")
def uninterrupted(insects: Path) -> Recorder:
    return fitted(insects)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_with_any_number_of_workers(insects: Path, uninterrupted: Recorder, workers: int):
    assert fitted(insects, num_workers=workers).seen == uninterrupted.seen


def test_an_epoch_has_each_training_item_at_most_once_in_another_order(uninterrupted: Recorder):
    epochs = [[i for epoch, items, _ in uninterrupted.seen["train"] if epoch == k for i in items] for k in range(2)]
    assert all(len(set(items)) == len(items) == 16 for items in epochs)  # 19 items, batches of 4, the rest dropped
    assert epochs[0] != epochs[1]


def test_validation_is_the_same_each_epoch_and_sees_every_item(uninterrupted: Recorder):
    first, second = ([entry[1:] for entry in uninterrupted.seen["val"] if entry[0] == k] for k in range(2))
    assert first == second
    assert sorted(i for items, _ in first for i in items) == list(range(11))


def test_two_processes_share_the_batches_of_one(insects: Path, tmp_path: Path):
    single = fitted(insects, batch_size=8, predict=True).seen
    done = forking.run("-m", "tests.data.runs", insects, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(path) for path in sorted(tmp_path.glob("rank*.pt"))]
    for stage in ("train", "val", "predict"):
        assert len(ranks[0][stage]) == len(ranks[1][stage]) > 0
    for whole, left, right in zip(single["train"], ranks[0]["train"], ranks[1]["train"], strict=True):
        assert sorted(left[1] + right[1]) == sorted(whole[1])
        assert left[2] + right[2] == pytest.approx(whole[2], rel=1e-6)
    for stage in ("val", "predict"):
        once = [items for entry in single[stage] for items in entry[1]]
        assert sorted(items for rank in ranks for entry in rank[stage] for items in entry[1]) == sorted(once)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 3, 4, 6])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_with_the_next_unseen_batch(
    insects: Path, uninterrupted: Recorder, tmp_path: Path, step: int, workers: int
):
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=1)
    options = {"enable_checkpointing": True, "callbacks": [save, StopAt(step)]}
    with pytest.raises(SystemExit):
        fitted(insects, options, num_workers=workers)
    resumed = Recorder()
    quiet().fit(resumed, datamodule=insects_data(insects, num_workers=workers), ckpt_path=save.best_model_path)
    assert resumed.seen["train"] == uninterrupted.seen["train"][step:]
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, uninterrupted.state_dict()[name]), name


class Grow(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        trainer.datamodule.train_size = (32, 48) if trainer.current_epoch == 0 else 64


class NoteShapes(Recorder):
    def step(self, batch, stage):
        self.seen[stage].append(tuple(batch["image"].shape[2:]))
        return super().step(batch, stage)


@pytest.mark.parametrize("workers", [0, 1])
def test_train_size_holds_from_the_next_epoch_and_validation_keeps_its_size(insects: Path, workers: int):
    model = NoteShapes()
    quiet(callbacks=[Grow()]).fit(model, datamodule=insects_data(insects, num_workers=workers))
    shapes = {stage: [entry for entry in model.seen[stage] if len(entry) == 2] for stage in ("train", "val")}
    assert shapes["train"] == [(32, 48)] * 4 + [(64, 64)] * 4
    assert set(shapes["val"]) == {(32, 32)}


def test_limited_epochs_do_not_leak_into_the_next(insects: Path, uninterrupted: Recorder):
    limited = fitted(insects, {"limit_train_batches": 2}, num_workers=2)
    expected = [uninterrupted.seen["train"][k] for k in (0, 1, 4, 5)]
    assert [entry[1] for entry in limited.seen["train"]] == [entry[1] for entry in expected]


def test_overfitting_repeats_the_same_batches(insects: Path):
    seen = fitted(insects, {"overfit_batches": 2}).seen["train"]
    assert [entry[1] for entry in seen[:2]] == [entry[1] for entry in seen[2:]]


def test_a_batch_is_what_the_tasks_expect(insects: Path):
    data = insects_data(insects, stats=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].dtype == torch.uint8
    ready = data.on_after_batch_transfer(batch, 0)
    assert ready["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ready["image"], batch["image"] / 255)
    assert (ready["label"].dtype, ready["index"].dtype) == (torch.int64, torch.int64)
    assert data.classes == ["ant", "bee", "wasp"]
    assert [data.classes[k] for k in ready["label"]] == ["ant"] * 4


def test_statistics_come_from_the_model_unless_given(insects: Path):
    model = Recorder()
    model.normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    ours, theirs = insects_data(insects), insects_data(insects, stats=((0.1,) * 3, (0.2,) * 3))
    for data in (ours, theirs):
        quiet(max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(model, datamodule=data)
    assert ours.preprocessing()["mean"] == [0.5, 0.5, 0.5]
    assert theirs.preprocessing()["std"] == [0.2, 0.2, 0.2]


def test_reduced_precision_gets_images_of_its_type_and_the_same_geometry(insects: Path):
    class Half(Recorder):
        def step(self, batch, stage):
            self.first = getattr(self, "first", batch["image"])
            return super().step({**batch, "image": batch["image"]}, stage)

    full, half = Half(), Half()
    quiet(max_epochs=1).fit(full, datamodule=insects_data(insects))
    quiet(max_epochs=1, precision="bf16-true").fit(half, datamodule=insects_data(insects))
    assert half.first.dtype == torch.bfloat16
    assert torch.equal(half.first, full.first.bfloat16())


def test_every_bad_file_is_named_before_training(insects: Path, tmp_path: Path):
    whole = fill(tmp_path / "train/ant", 8) + fill(tmp_path / "train/bee", 8) + fill(tmp_path / "valid/ant", 2)
    fill(tmp_path / "valid/bee", 2)
    whole[0].write_bytes(b"")
    whole[9].write_bytes(whole[9].read_bytes()[:-300])
    whole[16].write_text("no image")
    model = Recorder(2)
    with pytest.raises(DataError) as caught:
        quiet(default_root_dir=tmp_path / "run").fit(model, datamodule=insects_data(tmp_path))
    assert all(str(whole[k]) in str(caught.value) for k in (0, 9, 16))
    assert "3 cannot be used" in str(caught.value)
    assert model.seen["train"] == []


def test_many_bad_files_are_listed_in_full_in_a_file(tmp_path: Path):
    paths = fill(tmp_path / "data/train/ant", 20) + fill(tmp_path / "data/train/bee", 4)
    fill(tmp_path / "data/valid/ant", 1), fill(tmp_path / "data/valid/bee", 1)
    for path in paths[:15]:
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="15 cannot be used") as caught:
        quiet(default_root_dir=tmp_path / "run").fit(Recorder(2), datamodule=insects_data(tmp_path / "data"))
    assert str(paths[10]) not in str(caught.value)
    listing = (tmp_path / "run/bad_images.txt").read_text()
    assert all(str(path) in listing for path in paths[:15])


def test_items_must_be_split_and_labelled(insects: Path):
    items = ImageItems.from_folder(insects)
    with pytest.raises(DataError, match="split_by"):
        items.label_from_folder().datamodule()
    with pytest.raises(DataError, match="label_"):
        items.split_by_folder().datamodule()


def test_testing_without_test_images_says_so(insects: Path):
    with pytest.raises(DataError, match="Expected test images"):
        quiet().test(Recorder(), datamodule=insects_data(insects))


def test_a_batch_of_each_split_is_drawn_with_its_labels(insects: Path, tmp_path: Path):
    data = ImageData.from_folder(insects, size=32, num_workers=0)
    figure = data.show_batch(5, split="valid")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["ant", "ant", "ant", "ant", "bee"]
    figure.savefig(tmp_path / "batch.png")
    assert (tmp_path / "batch.png").stat().st_size > 1000
    shown = data.show_batch(4).axes[0].images[0].get_array()
    assert not np.array_equal(shown, data.show_batch(4, epoch=1).axes[0].images[0].get_array())


@pytest.mark.parametrize(("images", "size"), [(768, 64), (767, 32), (400, 32), (384, 32), (383, 16), (3, 16)])
def test_few_images_come_in_small_batches(tmp_path: Path, images: int, size: int):
    """So that an epoch has steps enough."""
    files = [tmp_path / f"{number}.jpg" for number in range(images + 2)]
    for file in files:
        file.touch()
    items = ImageItems.from_lists(files).split_by_index([0, 1]).label_from_lists([n % 2 for n in range(images + 2)])
    assert items.datamodule().batch_size == size
    assert items.datamodule(batch_size=5).batch_size == 5
