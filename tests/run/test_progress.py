"""A run goes on at its place, whatever its epochs have become; and follows epochs that are not as long as they say."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle
from lightning_finetune.data import ImageData
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError
from tests.foreign import ForeignNet, Probe, fitted, images, loader


def fit(folder, callback, data, ckpt=None, every=None, extra=(), **options) -> tuple[list[float], pl.Trainer]:
    """The head's rate at each step."""
    probe, at_end = Probe(), None if every else True
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every, save_on_train_epoch_end=at_end)
    options = {"max_epochs": 4, "enable_checkpointing": True, **options}
    trainer = fitted(folder, callback, *extra, probe, saver, data=data, ckpt_path=ckpt, **options)
    return [lrs[-1] for lrs in probe.lrs], trainer


def cycle(place: float) -> float:
    """The rate at a part of one cycle over the run, written here on its own."""
    start, peak, end = 1e-2 / 25, 1e-2, 1e-2 / 1e5
    if place < 0.25:
        return start + (1 - np.cos(np.pi * place / 0.25)) / 2 * (peak - start)
    return peak + (1 - np.cos(np.pi * (place - 0.25) / 0.75)) / 2 * (end - peak)


CHANGES = [
    ({"batch_size": 4}, {"batch_size": 8}),
    ({"batch_size": 8}, {"batch_size": 4}),
    ({"count": 32, "batch_size": 8}, {"count": 64, "batch_size": 8}),
    ({"count": 32, "batch_size": 8, "limit_train_batches": 2}, {"count": 32, "batch_size": 8}),
    ({"batch_size": 4, "accumulate_grad_batches": 2}, {"batch_size": 4}),
    ({"batch_size": 4}, {"batch_size": 4, "accumulate_grad_batches": 2}),
    ({"batch_size": 8}, {"batch_size": 2, "accumulate_grad_batches": 4}),
]


def changed(folder, settings, **more):
    options = {**{"count": 16, "batch_size": 4}, **settings}
    return fit(folder, OneCycle(1e-2), loader(options.pop("count"), options.pop("batch_size")), **options, **more)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_run_with_other_epochs_goes_on_at_its_place(tmp_path, before, after, caplog):
    first, _ = changed(tmp_path, before)
    assert np.allclose(first, [cycle(step / len(first)) for step in range(len(first))])
    rest, trainer = changed(tmp_path, after, ckpt=tmp_path / f"step={len(first) // 2}.ckpt")
    assert np.allclose(rest, [cycle(0.5 + 0.5 * step / len(rest)) for step in range(len(rest))])
    assert trainer.current_epoch == 4
    assert ("goes on after 2 epochs" in caplog.text) == (len(rest) != len(first) / 2)


@pytest.mark.parametrize(
    ("before", "after", "step", "place", "rest"),
    [(4, 8, 10, 2.5, 1), (8, 4, 5, 2.5, 2), (4, 2, 9, 2.25, 6), (8, 2, 3, 1.5, 4)],
)
def test_within_an_epoch_too(tmp_path, before, after, step, place, rest):
    changed(tmp_path, {"batch_size": before}, every=1)
    rates, _ = changed(tmp_path, {"batch_size": after}, ckpt=tmp_path / f"step={step}.ckpt")
    an_epoch = 16 // after
    places = [place + k / an_epoch for k in range(rest)]
    places += [int(place) + 1 + k / an_epoch for k in range((3 - int(place)) * an_epoch)]
    assert np.allclose(rates, [cycle(each / 4) for each in places])


@pytest.mark.parametrize("step", [4, 12])
def test_from_the_last_batch_of_an_epoch_too(tmp_path, step):
    """Where the new epochs have more batches, Lightning would train the rest of the old one."""
    changed(tmp_path, {"batch_size": 4}, every=1)
    rates, _ = changed(tmp_path, {"batch_size": 2}, ckpt=tmp_path / f"step={step}.ckpt")
    left = 4 - step // 4
    assert np.allclose(rates, [cycle((step // 4 + k / 8) / 4) for k in range(8 * left)])


def test_a_run_that_is_stopped_twice_goes_on_where_it_was(tmp_path):
    changed(tmp_path, {"batch_size": 4}, every=1)
    again = tmp_path / "again"
    changed(again, {"batch_size": 8}, ckpt=tmp_path / "step=10.ckpt", every=1)  # at step 11 epoch 2 ends
    rates, _ = changed(again, {"batch_size": 4}, ckpt=again / "step=12.ckpt")  # half of epoch 3
    assert np.allclose(rates, [cycle((3.5 + k / 4) / 4) for k in range(2)])


@pytest.mark.parametrize("step", [3, 8, 10, 11])
def test_unchanged_settings_give_the_same_rates_to_the_bit(tmp_path, step):
    accumulation = {"extra": [GradientAccumulationScheduler({0: 1, 2: 2})]} if step == 8 else {}
    every = None if step == 8 else 1
    whole, _ = changed(tmp_path, {}, every=every, **accumulation)
    rest, _ = changed(tmp_path, {}, ckpt=tmp_path / f"step={step}.ckpt", **accumulation)
    assert rest == whole[step:]


def test_accumulation_that_a_callback_sets_goes_on_within_an_epoch(tmp_path):
    accumulates = GradientAccumulationScheduler({0: 2})
    first, _ = fit(tmp_path, OneCycle(1e-2), loader(), every=1, extra=[accumulates])
    rest, trainer = fit(tmp_path / "rest", OneCycle(1e-2), loader(), tmp_path / "step=4.ckpt", extra=[accumulates])
    assert rest == first[4:]
    assert trainer.global_step == len(first) == 12


@pytest.mark.parametrize(("batch", "lost"), [(3, 1), (5, 0)])
def test_gradients_that_a_checkpoint_lacks_are_said(tmp_path, caplog, batch, lost):
    class Saver(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, of_loader, batch_idx):
            if trainer.fit_loop.total_batch_idx == batch:
                trainer.save_checkpoint(tmp_path / "own.ckpt")

    options = {"accumulate_grad_batches": 3, "max_epochs": 2}
    fitted(tmp_path, OneCycle(1e-2), Saver(), data=loader(72), **options)
    fitted(tmp_path, OneCycle(1e-2), data=loader(72), ckpt_path=tmp_path / "own.ckpt", **options)
    assert (f"the gradients of {lost} batch(es) are lost" in caplog.text) == bool(lost)
    assert ("within an optimizer step" in caplog.text) == bool(lost)


def test_a_run_that_max_steps_ends_goes_on_after_an_epoch_as_if_it_had_not_stopped(tmp_path):
    """Lightning would end the epoch once more."""
    whole, _ = changed(tmp_path, {"max_steps": 14})
    rest, trainer = changed(tmp_path, {"max_steps": 14}, ckpt=tmp_path / "step=8.ckpt")
    assert rest == whole[8:]
    assert len(whole) == trainer.global_step == 14


@pytest.mark.parametrize("step", [6, 8])
def test_a_checkpoint_of_before_goes_on(tmp_path, step):
    whole, _ = changed(tmp_path, {}, every=1)
    file = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
    del file["callbacks"]["OneCycle"]["progress"]
    torch.save(file, tmp_path / "old.ckpt")
    assert changed(tmp_path, {}, ckpt=tmp_path / "old.ckpt")[0] == whole[step:]
    if step == 8:  # between epochs its place is known whatever the epochs are now
        rest, _ = changed(tmp_path, {"batch_size": 8}, ckpt=tmp_path / "old.ckpt")
        assert np.allclose(rest, [cycle((2 + k / 2) / 4) for k in range(4)])


def test_our_data_goes_on_with_the_images_that_the_epoch_has_not_seen(insects, tmp_path):
    class Seen(pl.Callback):
        def __init__(self) -> None:
            self.images: list[list[int]] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.images.append(batch["index"].tolist())

    class Net(ForeignNet):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    def run(batch_size, ckpt=None):
        seen = Seen()
        data = ImageData.from_folder(insects, size=16, batch_size=batch_size, num_workers=0)
        options = {"module": Net(), "extra": [seen], "max_epochs": 1, "limit_val_batches": 0}
        fit(tmp_path, OneCycle(1e-2), data, ckpt, every=1, **options)
        return [image for batch in seen.images for image in batch]

    pl.seed_everything(1, verbose=False)
    whole = run(4)
    assert run(2, tmp_path / "step=2.ckpt")[:8] == whole[8:]  # and two that batches of four leave over


class Epochs(pl.LightningDataModule):
    """Loaded anew in each epoch, with so many images."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts

    def train_dataloader(self) -> DataLoader:
        return loader(self.counts[self.trainer.current_epoch], 4)


class Stream(IterableDataset):
    """Batches of four, that say no length; the last number of images holds from then on."""

    def __init__(self, *counts: int) -> None:
        self.counts, self.epoch = counts, -1

    def __iter__(self):
        self.epoch += 1
        data = images(self.counts[min(self.epoch, len(self.counts) - 1)])
        yield from zip(*(part.split(4) for part in data.tensors), strict=True)

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None)


def test_a_cycle_is_laid_over_epochs_that_are_loaded_anew(tmp_path):
    callback = OneCycle(1e-2, epochs=[2, 2])
    rates, _ = fit(tmp_path, callback, Epochs([32, 16, 16, 16]), reload_dataloaders_every_n_epochs=1)
    first = [cycle(step / 16) for step in range(8)] + [cycle(0.5 + step / 8) for step in range(4)]
    assert np.allclose(rates, [*first, *[cycle(step / 8) for step in range(8)]])
    assert callback.plan_of_run.steps == (12, 8)


@pytest.mark.parametrize("options", [{"limit_train_batches": 8}])
def test_and_over_epochs_that_end_before_their_length(tmp_path, options):
    callback = OneCycle(1e-2, epochs=[2, 2])
    rates, _ = fit(tmp_path, callback, Stream(32, 16).loader(), **options)
    assert np.allclose(rates[-8:], [cycle(step / 8) for step in range(8)])
    assert callback.plan_of_run.steps == (12, 8)


def test_resumed_after_an_epoch_that_ended_early_it_expects_the_same(tmp_path):
    whole, _ = fit(tmp_path, OneCycle(1e-2), Stream(16).loader(), limit_train_batches=8)
    rest, _ = fit(tmp_path, OneCycle(1e-2), Stream(16).loader(), tmp_path / "step=8.ckpt", limit_train_batches=8)
    assert rest == whole[8:]


def test_data_without_a_length_is_followed_from_the_second_epoch_on(tmp_path):
    callback = OneCycle(1e-2)
    rates, _ = fit(tmp_path, callback, Stream(16).loader())
    assert np.allclose(rates, [cycle(0)] * 4 + [cycle(step / 16) for step in range(4, 16)])
    assert callback.plan_of_run.steps == (16,)


def test_and_refused_where_the_first_epoch_is_more_than_the_rise(tmp_path):
    with pytest.raises(PhaseError, match="limit_train_batches"):
        fit(tmp_path, OneCycle(1e-2, epochs=[2, 2]), Stream(16).loader())


def test_unfreezing_and_constant_rates_need_no_length(tmp_path):
    unfreezing = GradualUnfreezing({0: "head", 2: "all"})
    rates, _ = fit(tmp_path, unfreezing, Stream(16).loader())
    assert rates == [1e-2] * 16
    assert unfreezing.plan_of_run.steps == (8, 8)
    constant = FineTune([Phase(1, "head", 1e-3, schedule="constant"), Phase(3, "all", 1e-4, schedule="constant")])
    rates, _ = fit(tmp_path, constant, Stream(16).loader())
    assert rates == [1e-3] * 4 + [1e-4] * 12


def test_the_plan_says_what_is_an_estimate(tmp_path, capsys):
    fit(tmp_path, FineTune([Phase(4)]), Stream(16).loader())
    assert "?: the data say no length" in capsys.readouterr().out
    assert [line.split(",")[2] for line in (tmp_path / "plan.csv").read_text().splitlines()] == ["steps", "?"]
