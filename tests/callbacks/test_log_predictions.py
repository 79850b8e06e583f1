import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.callbacks import FineTune, LogPredictions
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import FinetuneError
from lightning_finetune.run.describe import describe, to_pixels
from lightning_finetune.run.validation_images import Sample
from tests.foreign import ForeignNet, fitted, loader, quiet_trainer


def numbered(count: int, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    numbers = torch.arange(count)
    images = numbers.float()[:, None, None, None].expand(-1, 3, 2, 2)
    return [(images[i : i + batch_size], numbers[i : i + batch_size]) for i in range(0, count, batch_size)]


def sample_of(batches, num: int = 8, seed: int = 1) -> Sample:
    sample = Sample(num, seed)
    for images, targets in batches:
        sample.offer(images, targets)
    return sample


def test_a_sample_does_not_depend_on_the_batch_size_and_keeps_images_with_their_targets() -> None:
    small, large = sample_of(numbered(100, 3)), sample_of(numbered(100, 50))
    assert small.targets.tolist() == large.targets.tolist() == sorted(set(small.targets.tolist()))
    assert small.images[:, 0, 0, 0].tolist() == small.targets.tolist()
    assert len(small.targets) == 8


def test_every_item_is_as_likely_to_be_drawn() -> None:
    batches = numbered(20, 7)
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[sample_of(batches, num=5, seed=seed).targets] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05


def test_fewer_images_than_asked_for() -> None:
    assert len(sample_of(numbered(3, 2)).targets) == 3


class Recorder(LogPredictions):
    """Keeps what is shown."""

    def __init__(self, num: int = 6) -> None:
        super().__init__(num)
        self.shown: list[tuple[int, np.ndarray]] = []

    def show(self, trainer, shown, classes):
        self.shown.append((trainer.current_epoch, np.stack([item.image for item in shown])))
        super().show(trainer, shown, classes)


def test_the_same_images_at_the_end_of_each_phase(tmp_path) -> None:
    recorder = Recorder()
    phases = FineTune([Phase(2, "head", 1e-2), Phase(1, "all", 1e-3)])
    fitted(
        tmp_path,
        phases,
        recorder,
        data=(loader(), loader(40, batch_size=8, seed=1)),
        max_epochs=3,
        num_sanity_val_steps=1,
    )
    assert [epoch for epoch, _ in recorder.shown] == [1, 2]
    assert (recorder.shown[0][1] == recorder.shown[1][1]).all()
    assert len(recorder.shown[0][1]) == 6, "the sanity check saw 8 images only; the sample must be of all"
    with Image.open(tmp_path / "predictions.png") as picture:
        picture.load()


def test_changes_nothing_of_the_training(tmp_path) -> None:
    def weights(*callbacks: pl.Callback) -> dict[str, torch.Tensor]:
        pl.seed_everything(3, verbose=False)
        module = ForeignNet()
        fitted(tmp_path, *callbacks, module=module, data=(loader(), loader(16, seed=1)), max_epochs=2)
        return module.state_dict()

    with_it, without = weights(LogPredictions()), weights()
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_says_once_that_a_module_without_images_has_nothing_to_show(tmp_path) -> None:
    class Tabular(ForeignNet):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(5, 4)

        def forward(self, x):
            return self.layer(x)

    rows = DataLoader(TensorDataset(torch.randn(8, 5), torch.randint(0, 4, (8,))), 4)
    with pytest.warns(UserWarning, match="LogPredictions shows nothing: Expected a batch with images") as caught:
        fitted(tmp_path, LogPredictions(), module=Tabular(), data=(rows, rows), max_epochs=2)
    assert sum("shows nothing" in str(warning.message) for warning in caught) == 1
    assert not (tmp_path / "predictions.png").exists()


def test_says_that_a_module_without_forward_has_nothing_to_show(tmp_path) -> None:
    class Inner(ForeignNet):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return self.head(self.stem(batch[0]).mean((2, 3))).sum()

        def validation_step(self, batch, batch_idx): ...

    with pytest.warns(UserWarning, match="LogPredictions shows nothing: expected a `forward` that takes images alone"):
        trainer = fitted(tmp_path, LogPredictions(), module=Inner(), data=(loader(), loader(16, seed=1)), max_epochs=1)
    assert trainer.global_step > 0


def test_masks_of_a_segmenter(tmp_path) -> None:
    class Segmenter(ForeignNet):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.layer(x)

    pairs = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8, 8, 8))), 4)
    quiet_trainer(tmp_path, callbacks=[LogPredictions(4)], max_epochs=1).fit(Segmenter(), pairs, pairs)
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.size[0] > picture.size[1], "truth and prediction lie side by side"


def test_several_labels(tmp_path) -> None:
    class Tagger(ForeignNet):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.tensor(0.0))

        training_step = None

    tags = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(0, 2, (8, 4)).float()), 4)
    quiet_trainer(tmp_path, callbacks=[LogPredictions(4)]).validate(Tagger(), tags)
    assert (tmp_path / "predictions.png").is_file()


def saying(forward) -> ForeignNet:
    """A module that gives what ``forward`` makes of images."""
    module = ForeignNet().eval()
    module.forward = forward
    return module


def test_one_logit_decides_between_two_classes(tmp_path) -> None:
    bright = saying(lambda x: 10 * x.mean((1, 2, 3))[:, None])
    images = torch.tensor([1.0, -1.0, 0.2])[:, None, None, None].expand(-1, 3, 4, 4)
    shown, names = describe(quiet_trainer(tmp_path), bright, images, torch.tensor([1, 0, 0]))
    assert names == ["0", "1"]
    assert [item.prediction for item in shown] == ["1 100%", "0 100%", "1 88%"]
    assert [item.wrong for item in shown] == [False, False, True]


def test_labels_count_from_the_thresholds_of_the_task_on(tmp_path) -> None:
    tagger = saying(lambda x: torch.logit(torch.tensor([[0.3, 0.8, 0.1, 0.95]])))
    tagger.thresholds, tagger.probabilities = (0.2, 0.9, 0.2, 0.9), torch.sigmoid
    images, targets = torch.randn(1, 3, 8, 8), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    [shown], names = describe(quiet_trainer(tmp_path), tagger, images, targets)
    assert (shown.truth, shown.prediction, shown.wrong, names) == ("0, 3", "0, 3", False, ["0", "1", "2", "3"])


def test_pixels_that_count_for_nothing_are_left_bare(tmp_path) -> None:
    module, images = saying(lambda x: torch.stack([x[:, 0] * 0, x[:, 0] * 0 + 1], 1)), torch.randn(1, 3, 2, 4)
    masks = torch.tensor([[[1, 1, 1, 0], [255, 255, 255, 255]]])
    module.save_hyperparameters({"ignore_index": 255})
    [shown], _ = describe(quiet_trainer(tmp_path), module, images, masks)
    assert shown.prediction == "truth | prediction, 75% equal"
    assert shown.masks[0].tolist() == [[1, 1, 1, 0], [-1] * 4]


def test_pixels_are_those_before_normalisation() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 4))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    shown = to_pixels(normalised, mean, std)
    assert (torch.tensor(shown[1]) == pixels[1].permute(1, 2, 0)).all()


@pytest.mark.parametrize(("channels", "shown"), [(1, 3), (5, 3)])
def test_any_number_of_channels_can_be_shown(channels: int, shown: int) -> None:
    assert to_pixels(torch.randn(1, channels, 4, 4), None, None)[0].shape == (4, 4, shown)


def test_num_must_be_positive() -> None:
    with pytest.raises(FinetuneError, match="`num`"):
        LogPredictions(num=0)


@pytest.mark.parametrize("key", ["label", "labels", "target"])
@pytest.mark.parametrize("images", ["image", "pixel_values"])
def test_batches_of_torchgeo_and_transformers_are_known_by_their_keys(tmp_path, images, key) -> None:
    class Module(ForeignNet):
        def forward(self, x):
            return {"logits": super().forward(x), "loss": None}

        def validation_step(self, batch, batch_idx): ...

    rows = [{images: image, key: label} for image, label in loader(8).dataset]
    recorder = Recorder(4)
    trainer = quiet_trainer(tmp_path, callbacks=[recorder])
    trainer.validate(Module(), DataLoader(rows, 4), verbose=False)
    assert [len(shown) for _, shown in recorder.shown] == [4]


def test_a_mask_of_one_logit_is_of_two_classes(tmp_path) -> None:
    segmenter = saying(lambda x: {"out": x[:, :1]})
    images = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]]).expand(1, 3, 2, 2)
    for masks in (torch.tensor([[[1, 0], [1, 1]]]), torch.tensor([[[[1.0, 0], [1, 1]]]])):
        [shown], names = describe(quiet_trainer(tmp_path), segmenter, images, masks)
        assert shown.prediction == "truth | prediction, 75% equal"
        assert shown.masks[1].tolist() == [[1, 0], [1, 0]]
        assert names == ["0", "1"]


def test_labels_of_whole_numbers_are_judged_each_for_itself(tmp_path) -> None:
    tagger = saying(lambda x: torch.tensor([[2.0, 1.5, -1.0, -2.0]]))
    [shown], _ = describe(quiet_trainer(tmp_path), tagger, torch.randn(1, 3, 8, 8), torch.tensor([[1, 1, 0, 0]]))
    assert (shown.truth, shown.prediction, shown.wrong) == ("0, 1", "0, 1", False)
