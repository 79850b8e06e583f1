"""A run on anybody's loaders that is stopped within an epoch goes on to the same bits, in the same order."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, Resumable, images, loader, quiet_trainer
from tests.resuming import assert_same_bits


class Augmented(Dataset):
    """Transforms that draw from the generators of torch and numpy, in whatever process they are."""

    def __init__(self) -> None:
        self.images = images(48)

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index):
        image, label = self.images[index]
        return image + 0.1 * torch.randn(1) + 0.1 * np.random.rand(), label


def shuffled(**options) -> DataLoader:
    return DataLoader(Augmented(), 8, shuffle=True, **options)


def own_generator() -> DataLoader:
    return shuffled(generator=torch.Generator().manual_seed(4))


def weighted() -> DataLoader:
    return DataLoader(Augmented(), 8, sampler=WeightedRandomSampler(torch.arange(1.0, 49.0), 48))


class Batches:
    """Not a DataLoader, and without any state."""

    def __init__(self) -> None:
        self.batches = list(loader())

    def __len__(self) -> int:
        return 6

    def __iter__(self):
        return iter(self.batches)


class Stop(pl.Callback):
    """Ends the run at a step, and notes the batches that it sees."""

    def __init__(self, step: int | None = None) -> None:
        self.step, self.seen = step, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("stopped")
        first = batch["a"] if isinstance(batch, dict) else batch
        self.seen.append((trainer.current_epoch, batch_idx, float(first[0].sum())))


def fine_tune():
    return [FineTune([Phase(1, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))])]


def apart():
    return [GradualUnfreezing({0: "head", 1: "all"}), OneCycle((1e-3, 1e-2))]


def fit(folder: Path, make, stop=None, resume=None, phased=fine_tune, **options):
    pl.seed_everything(3, verbose=False)
    torch.rand(0 if resume is None else 7)
    module, watch = ForeignNet(), Stop(stop)
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"max_epochs": 2, "enable_checkpointing": True, **options}
    trainer = quiet_trainer(folder, callbacks=[*phased(), watch, saver], **settings)
    try:
        trainer.fit(module, make(), loader(16, seed=1), ckpt_path=resume)
    except RuntimeError as error:
        assert str(error) == "stopped"  # noqa: PT017
    return dict(module.state_dict()), watch.seen


@pytest.mark.parametrize(
    ("make", "stop", "options"),
    [
        (shuffled, 3, {}),
        (shuffled, 6, {}),  # the last batch of an epoch, with a validation to come
        (shuffled, 8, {"phased": apart}),
        (shuffled, 3, {"phased": apart}),
        (shuffled, 9, {"val_check_interval": 3}),
        (shuffled, 4, {"accumulate_grad_batches": 2}),
        (own_generator, 4, {}),
        (own_generator, 6, {}),
        (own_generator, 9, {}),
        (weighted, 9, {}),
        (lambda: shuffled(num_workers=2), 3, {}),
        (lambda: shuffled(num_workers=2), 9, {}),
        (lambda: DataLoader(images(48), 8, shuffle=True, num_workers=1, persistent_workers=True), 9, {}),
        (Batches, 8, {}),
        (Resumable, 8, {}),
    ],
)
def test_it_sees_what_it_had_not_seen_and_ends_with_the_same_bits(tmp_path, make, stop, options):
    whole, order = fit(tmp_path / "whole", make, **options)
    fit(tmp_path / "parts", make, stop=stop, **options)
    rest, seen = fit(tmp_path / "rest", make, resume=tmp_path / f"parts/step={stop}.ckpt", **options)
    seen_before = stop * options.get("accumulate_grad_batches", 1)
    assert len(order) == 12
    assert seen == order[seen_before:]
    assert_same_bits(whole, rest)


def test_that_batches_are_loaded_again_is_said_and_the_false_warning_is_not(tmp_path, recwarn, caplog):
    fit(tmp_path / "parts", shuffled, stop=9)
    with caplog.at_level("INFO"):
        fit(tmp_path / "rest", shuffled, resume=tmp_path / "parts/step=9.ckpt")
    assert "Loading the 3 batches of epoch 2 again that the run has seen." in caplog.text
    assert not [warning for warning in recwarn if "not resumable" in str(warning.message)]
