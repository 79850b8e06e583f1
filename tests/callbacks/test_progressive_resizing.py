"""Sizes follow the epochs, with the package's data and with anybody's, and are tried before the first epoch."""

import os

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from lightning_finetune.callbacks import FineTune, ProgressiveResizing
from lightning_finetune.data import ImageData
from lightning_finetune.data.block.splits import Split
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.sizes import Resizer
from lightning_finetune.tasks import ImageClassifier
from tests.foreign import ForeignNet, Resumable, fitted, images, quiet_trainer
from tests.resuming import assert_same_bits


class Sized(ForeignNet):
    """Keeps the sizes it saw."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.train_sizes: list[tuple[int, int]] = []
        self.valid_sizes: set[tuple[int, int]] = set()

    def training_step(self, batch, batch_idx):
        x, y = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
        self.train_sizes.append(tuple(x.shape[-2:]))
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x = batch["image"] if isinstance(batch, dict) else batch[0]
        self.valid_sizes.add(tuple(x.shape[-2:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_workers_of_the_packages_data_follow_the_epochs(tmp_path, folder, workers):
    module, data = Sized(), ImageData.from_folder(folder, size=128, batch_size=8, num_workers=workers)
    fitted(tmp_path, ProgressiveResizing({0: 64, 1: 96, 2: 128}), module=module, data=data, max_epochs=3)
    steps = len(module.train_sizes) // 3
    assert module.train_sizes == [(64, 64)] * steps + [(96, 96)] * steps + [(128, 128)] * steps
    assert module.valid_sizes == {(128, 128)}
    assert data.train_size == (128, 128)


def tuples(batch):
    x, y = zip(*batch, strict=True)
    return torch.stack(x), torch.stack(y)


def test_batches_of_anybodys_loader_are_resized_on_the_device(tmp_path):
    module = Sized()
    train = DataLoader(images(16, size=96), 8, collate_fn=tuples)
    valid = DataLoader(images(8, size=96), 8)
    fitted(tmp_path, ProgressiveResizing({0: 64, 1: 96}), module=module, data=(train, valid), max_epochs=2)
    assert module.train_sizes == [(64, 64)] * 2 + [(96, 96)] * 2
    assert module.valid_sizes == {(96, 96)}
    assert "training_step" not in vars(module)


def test_trying_the_sizes_leaves_no_trace(tmp_path, monkeypatch):
    def fit():
        pl.seed_everything(0, verbose=False)
        module, data = ForeignNet(), DataLoader(images(16, size=64), 8)
        trainer = fitted(tmp_path, ProgressiveResizing({0: 64}), module=module, data=data, max_epochs=1)
        return dict(module.state_dict()), trainer.optimizers[0].state_dict()["state"]

    tried = fit()
    monkeypatch.setattr(Resizer, "dry_run", lambda resizer, *_: resizer.untried.clear())
    assert_same_bits(fit(), tried)


class Numbers(IterableDataset):
    """A stream that is read once."""

    def __init__(self) -> None:
        self.items = iter(images(16, size=64))

    def __len__(self) -> int:
        return 16

    def __iter__(self):
        return ((x, y) for x, y in self.items)


class Placed(IterableDataset):
    """A stream that knows its place, which its workers share, as MosaicML's do."""

    def __init__(self) -> None:
        self.begun = torch.zeros(1).share_memory_()

    def __len__(self) -> int:
        return 16

    def __iter__(self):
        assert self.begun == 0
        self.begun += 1
        return iter(images(16, size=64))

    def load_state_dict(self, state): ...


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resumable(16, size=64),
        lambda: DataLoader(Numbers(), 8),
        lambda: DataLoader(Placed(), 8, num_workers=1),
    ],
)
def test_a_loader_or_a_stream_that_cannot_be_lent_is_not_begun_to_try_the_sizes(tmp_path, make):
    sizes: list[int] = []

    class Watching(Sized):
        def on_before_optimizer_step(self, optimizer):
            sizes.append(self.train_sizes[-1][0])

    class InPlace(Watching):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(0.5)
            self.largest = float(batch[0].abs().max())
            return super().training_step(batch, batch_idx)

    module, data = InPlace(), make()
    trainer = fitted(tmp_path, ProgressiveResizing({0: 64}), module=module, data=data, max_epochs=1)
    assert len(sizes) == 3  # one was tried
    assert trainer.global_step == 2
    if isinstance(data, Resumable):
        assert data.given == [0, 8]
        assert module.largest == pytest.approx(float(images(16, size=64).tensors[0][8:].abs().max()) / 2)


def test_a_resumed_loader_goes_on_where_it_was(tmp_path):
    def fit(data, resume=None):
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [ProgressiveResizing({0: 64, 1: 96}), saver]
        fitted(tmp_path, *callbacks, data=data, ckpt_path=resume, max_epochs=2, enable_checkpointing=True)

    whole, rest = Resumable(32, size=64), Resumable(32, size=64)
    fit(whole)
    fit(rest, tmp_path / "step=2.ckpt")
    assert rest.given == whole.given[2:]


class FixedSize(Sized):
    """A model that takes one size only, as transformers do."""

    def forward(self, x):
        if x.shape[-1] != 96:
            raise ValueError(f"Input height ({x.shape[-2]}) doesn't match model (96).")
        return super().forward(x)


@pytest.mark.parametrize("make", [lambda: DataLoader(images(16, size=96), 8), lambda: Resumable(16, size=96)])
def test_a_size_that_the_model_cannot_take_is_named_before_a_step_is_made(tmp_path, make):
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[ProgressiveResizing({0: 96, 1: 64})])
    with pytest.raises(PhaseError, match=r"cannot train at 64 x 64 pixels.*doesn't match model"):
        trainer.fit(FixedSize(), make())
    assert trainer.global_step == 0


def test_the_largest_size_is_tried_first_with_every_layer_training(tmp_path):
    seen: list[tuple[int, bool]] = []

    class Watching(Sized):
        def on_before_optimizer_step(self, optimizer):
            seen.append((self.train_sizes[-1][0], all(p.grad is not None for p in self.parameters())))

    phases = [Phase(1, "head", 1e-3, size=64), Phase(1, "all", 1e-3, size=96)]
    fitted(tmp_path, FineTune(phases), module=Watching(), data=DataLoader(images(8, size=96), 8))
    assert seen[:2] == [(96, True), (64, True)]
    assert seen[2:] == [(64, False), (96, True)]


class Unreadable(torch.utils.data.Dataset):
    """Images of which one worker dies, as when the kernel takes its memory."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index):
        os._exit(1)


def test_a_worker_that_dies_while_sizes_are_tried_is_not_blamed_on_the_size(tmp_path):
    with pytest.raises(RuntimeError, match="DataLoader worker") as error:
        fitted(tmp_path, ProgressiveResizing({0: 64}), data=DataLoader(Unreadable(), 4, num_workers=1), max_epochs=1)
    assert not isinstance(error.value, PhaseError)
    (note,) = error.value.__notes__
    assert "A process that loads data is gone" in note
    assert "use fewer workers" in note


class Raises(Unreadable):
    """Its own mistake, of the class that torch has for a killed worker."""

    def __getitem__(self, index):
        raise RuntimeError("my mistake")


def test_an_error_that_a_worker_raised_is_not_taken_for_a_killed_one(tmp_path):
    with pytest.raises(RuntimeError, match="my mistake") as error:
        fitted(tmp_path, ProgressiveResizing({0: 64}), data=DataLoader(Raises(), 4, num_workers=1), max_epochs=1)
    assert not hasattr(error.value, "__notes__")


def test_a_last_batch_of_one_image_never_reaches_a_batch_norm(tmp_path, folder):
    count = ImageData.from_folder(folder).dataset(Split.TRAIN)
    batch_size = next(size for size in range(2, len(count)) if len(count) % size == 1)
    data = ImageData.from_folder(folder, size=96, batch_size=batch_size, num_workers=0)
    module = ImageClassifier("test_resnet", num_classes=data.num_classes, weights=False)
    trainer = fitted(tmp_path, ProgressiveResizing({0: 64, 1: 96}), module=module, data=data, max_epochs=2)
    assert trainer.global_step == 2 * (len(count) // batch_size)


def test_tiny_sizes_quote_the_rule():
    with pytest.raises(PhaseError, match="64 x 64"):
        ProgressiveResizing({0: 32, 1: 128})
    ProgressiveResizing({0: 32, 1: 128}, min_size=32)


class MaskNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 1))
        self.ids: set[int] = set()

    def training_step(self, batch, batch_idx):
        self.ids |= set(batch["mask"].unique().tolist())
        return F.cross_entropy(self.net(batch["image"]), batch["mask"], ignore_index=255)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_masks_of_anybodys_data_keep_their_ids(tmp_path):
    ids = torch.tensor([0, 5, 11, 255])
    items = [
        {
            "image": torch.rand(3, 128, 128),
            "mask": ids[torch.randint(0, 4, (16, 16))].repeat_interleave(8, 0).repeat_interleave(8, 1),
        }
        for _ in range(4)
    ]
    module = MaskNet()
    fitted(tmp_path, ProgressiveResizing({0: 64}), module=module, data=DataLoader(items, 2), max_epochs=1)
    assert module.ids == {0, 5, 11, 255}


class Pooled(Sized):
    """Batch norm after pooling, as in the decoders of DeepLab and PSPNet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(super().forward(x))


class Strided(Sized):
    """A decoder that needs images of multiples of 32, whatever their size."""

    def forward(self, x):
        if x.shape[-1] % 32:
            raise RuntimeError(f"Wrong input shape {x.shape[-1]}. Expected height and width divisible by 32.")
        return super().forward(x)


class WrongLabels(Sized):
    def training_step(self, batch, batch_idx):
        return super().training_step([batch[0], batch[1] + 9], batch_idx)


@pytest.mark.parametrize(
    ("make", "size", "batch_size", "cause"),
    [
        (Pooled, 96, 1, r"Expected more than 1.*of one image: take batches of at least 2"),
        (FixedSize, 96, 8, r"doesn't match.*can at the data's own size: leave that size out"),
        (FixedSize, 128, 8, r"doesn't match.*cannot at the data's own size either: give one that the model takes"),
        (WrongLabels, 96, 8, r"IndexError: Target \d+ is out of bounds.*cannot at the data's own size either"),
    ],
)
def test_the_cause_is_named_be_it_the_size_or_not(tmp_path, make, size, batch_size, cause):
    with pytest.raises(PhaseError, match=rf"cannot train at 64 x 64 pixels: .*({cause})"):
        fitted(
            tmp_path,
            ProgressiveResizing({0: 64}),
            module=make(),
            data=DataLoader(images(16, size=size), batch_size),
            max_epochs=1,
        )


def test_a_size_of_the_data_that_no_decoder_takes_is_named_with_the_nearest(tmp_path, folder):
    data = ImageData.from_folder(folder, size=100, batch_size=8, num_workers=0)
    with pytest.raises(PhaseError, match=r"(?s)at 100 x 100 pixels: .*divisible by 32.*data's own.*such as 96 x 96"):
        fitted(tmp_path, ProgressiveResizing({0: 100}), module=Strided(), data=data, max_epochs=1)
