"""Phases whose frozen layers run once end with the bits of phases whose frozen layers run in every epoch."""

import logging
import shutil
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from PIL import Image
from torch import nn

from lightning_finetune.callbacks import FineTune, LogConfusion, LogPredictions, PlotRun
from lightning_finetune.data import Augment, ImageData
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError
from lightning_finetune.run import feature_reuse, reuse_check
from lightning_finetune.tasks import ImageClassifier, UNetSegmenter
from tests.foreign import quiet_trainer
from tests.run.test_ddp import run
from tests.run.test_resume import assert_same_bits

TRAIN, VALID, BATCH = 30, 10, 8
HEAD, FULL = Phase(4, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of noise, with masks of the bright pixels."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for split, count in (("train", TRAIN // 2), ("valid", VALID // 2)):
        for k, label in enumerate(("a", "b")):
            (root / split / label).mkdir(parents=True)
            (root / "masks" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 156 + 50 * k, (80, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
                mask = (pixels[..., 0] > 100).astype(np.uint8)
                Image.fromarray(mask).save(root / "masks" / split / label / f"{number}.png")
    return root


def data_of(folder: Path, augment="none", workers: int = 0, **options) -> ImageData:
    return ImageData.from_folder(folder, size=64, batch_size=BATCH, num_workers=workers, augment=augment, **options)


def classifier() -> ImageClassifier:
    return ImageClassifier("test_efficientnet", num_classes=2, weights=False)


class Seen:
    """How many images ran through the layers before the head, by whether the model was training."""

    def __init__(self, model: nn.Module) -> None:
        self.training = self.evaluating = 0
        layers = model.backbone if hasattr(model, "backbone") else model.network.encoder
        layers.register_forward_pre_hook(self.count)

    def count(self, module: nn.Module, inputs: tuple) -> None:
        if module.training:
            self.training += len(inputs[0])
        else:
            self.evaluating += len(inputs[0])


def fit(folder, out, setting, *, make=classifier, phases=(HEAD,), callbacks=list, resume=None, data=None, **options):
    """What a run is made of, and what was seen on the way."""
    pl.seed_everything(5, verbose=False)
    module = make()
    seen = Seen(module.model) if hasattr(module, "model") else None
    tune = FineTune(list(phases), feature_cache=setting)
    trainer = quiet_trainer(out, callbacks=[tune, *callbacks()], **options)
    trainer.fit(module, data or data_of(folder), ckpt_path=resume)
    metrics = {name: value.clone() for name, value in trainer.callback_metrics.items()}
    return {"weights": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict(), "metrics": metrics}, seen


def both(folder, tmp_path, setting="exact", **options):
    """A run with reuse and one without, which must end the same; how many images each ran."""
    data = options.pop("data", None)
    reused, few = fit(folder, tmp_path / "reused", setting, data=data and data(), **options)
    plain, many = fit(folder, tmp_path / "plain", "off", data=data and data(), **options)
    assert_same_bits(reused, plain)
    return few, many


def padded(count: int) -> int:
    return -(-count // BATCH) * BATCH


@pytest.mark.parametrize("workers", [0, 2])
def test_a_head_phase_runs_each_image_once_and_ends_the_same(folder, tmp_path, workers):
    few, many = both(folder, tmp_path, data=lambda: data_of(folder, workers=workers))
    probes = 5 * BATCH  # to find out whether it is exact
    assert few.training == padded(TRAIN) + probes
    assert many.training == 4 * (TRAIN // BATCH) * BATCH
    assert (few.evaluating, many.evaluating) == (VALID, 4 * VALID)


def test_later_phases_train_all_layers_and_a_second_head_phase_begins_anew(folder, tmp_path):
    phases = [HEAD, FULL, Phase(3, "head", 1e-2, size=96), Phase(1, 2, 1e-2), FULL]
    few, many = both(folder, tmp_path, phases=phases)
    assert few.training < many.training
    assert few.evaluating == 5 * VALID


def test_the_range_test_of_a_head_phase_reads_the_same_outputs(folder, tmp_path):
    few, many = both(folder, tmp_path, phases=[Phase(2, "head", "find"), FULL])
    assert many.training - few.training > 50 * BATCH


def segmenter() -> UNetSegmenter:
    return UNetSegmenter(backbone="test_efficientnet", num_classes=2, weights=False)


def test_a_segmenter_keeps_what_its_encoder_gives_and_its_masks(folder, tmp_path):
    options = {"masks": "masks", "codes": ["dark", "bright"]}
    few, many = both(folder, tmp_path, make=segmenter, phases=[HEAD, FULL], data=lambda: data_of(folder, **options))
    assert few.training == padded(TRAIN) + 5 * BATCH + 24
    assert many.training == 5 * 24


@pytest.mark.parametrize("make", [classifier, segmenter])
def test_views_are_the_augmentations_of_the_first_epochs(folder, tmp_path, monkeypatch, make):
    """Of each epoch that finds its own view, the weights are those of a run that keeps none, masks included."""
    monkeypatch.setattr(reuse_check, "_not_for_training", lambda *_: None)  # which finds that it would save nothing
    options = {"augment": Augment(flip_vert=True)}
    if make is segmenter:
        options.update(masks="masks", codes=["dark", "bright"])
    few, many = both(folder, tmp_path, 4, make=make, data=lambda: data_of(folder, **options))
    assert few.evaluating < many.evaluating


def test_views_are_drawn_once_each_and_used_in_turn(folder, tmp_path):
    pixels: list[torch.Tensor] = []

    class Watching(ImageClassifier):
        def on_train_batch_start(self, batch, batch_idx):
            pixels.append(batch["image"].flatten(1)[:, :3])

    def make() -> ImageClassifier:
        return Watching("test_efficientnet", num_classes=2, weights=False)

    _, seen = fit(folder, tmp_path, 2, make=make, data=data_of(folder, "photo"), phases=[Phase(6, "head", 1e-2)])
    assert seen.training == 2 * padded(TRAIN) + 5 * BATCH
    assert all(batch.isnan().all() for batch in pixels), "whoever looks finds no numbers"


def test_an_average_of_weights_is_validated_with_its_own_outputs(folder, tmp_path):
    """Lightning swaps the averaged weights in for validation; those of frozen layers still move towards the others."""
    phases = [FULL, HEAD]
    few, many = both(folder, tmp_path, phases=phases, callbacks=lambda: [EMAWeightAveraging(decay=0.5)])
    assert few.training == 24 + padded(TRAIN) + 5 * BATCH
    assert few.evaluating == many.evaluating == 5 * VALID


def test_reduced_precision_and_accumulation(folder, tmp_path):
    few, many = both(folder, tmp_path, precision="bf16-mixed", accumulate_grad_batches=2)
    assert few.training < many.training


def test_pictures_show_pixels(folder, tmp_path):
    """What looks at images has its sample from the first validation, when there are some."""
    few, _ = both(
        folder,
        tmp_path,
        phases=[HEAD, Phase(2, "head", 1e-2)],
        callbacks=lambda: [LogPredictions(4), LogConfusion(), PlotRun()],
    )
    assert few.evaluating < 6 * VALID
    pictures = list(tmp_path.rglob("predictions.png"))
    assert len(pictures) == 2
    one, other = (np.asarray(Image.open(path)) for path in pictures)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("step", [5, 6])
def test_a_run_resumed_within_or_between_epochs_ends_the_same(folder, tmp_path, step):
    """Three steps an epoch: step 5 is within the second epoch, 6 at its end."""

    def save(where: Path) -> list[pl.Callback]:
        return [ModelCheckpoint(where, "{step}", every_n_train_steps=1, save_top_k=-1)]

    options = {"phases": [HEAD, FULL], "enable_checkpointing": True}
    whole, _ = fit(folder, tmp_path / "whole", "exact", callbacks=lambda: save(tmp_path), **options)
    saved = tmp_path / f"step={step}.ckpt"
    again, seen = fit(folder, tmp_path, "exact", callbacks=lambda: save(tmp_path / "again"), resume=saved, **options)
    assert_same_bits(whole, again)
    assert seen.training == padded(TRAIN) + 5 * BATCH + 3 * BATCH


def test_two_processes_share_the_work_and_end_the_same(folder, tmp_path):
    """Each runs half of the images; 30 do not divide by two batches of four."""
    options = ["--images", folder, "--augment", "none", "--batch-size", 4, "--strategy", "ddp", "--devices", 2]
    reused, plain = (run(tmp_path / which, "--which", which, *options) for which in ("exact", "off"))
    for one, other in zip(reused[0], plain[0], strict=True):
        assert_same_bits(one["params"], other["params"])
        assert_same_bits(one["optimizer"], other["optimizer"])
    for one, other in zip(reused[0], plain[0], strict=True):
        assert 2 * one["ran"] < other["ran"]


def test_nothing_of_it_is_left(folder, tmp_path):
    pl.seed_everything(5, verbose=False)
    module, data = classifier(), data_of(folder)
    trainer = quiet_trainer(tmp_path, callbacks=[FineTune([HEAD])])
    trainer.fit(module, data)
    assert not {"training_step", "validation_step"} & set(vars(module))
    assert "forward_features" not in vars(module.model)
    before = trainer.callback_metrics["val_loss"].clone()
    assert float(trainer.validate(module, data, verbose=False)[0]["val_loss"]) == float(before)


# -- said when it is not -----------------------------------------------------------------------------------------------


class Drops(ImageClassifier):
    """Whose layers before the head draw random numbers."""

    def configure_models(self):
        model = super().configure_models()
        model.backbone = nn.Sequential(model.backbone, nn.Dropout(0.1))
        return model


class Looks(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...


def dropping() -> ImageClassifier:
    return Drops("test_efficientnet", num_classes=2, weights=False)


REASONS = {
    "augmented": ({"data": {"augment": "photo"}}, "they are augmented"),
    "mixed": ({"data": {"mix": "mixup"}}, "images of a batch are mixed"),
    "too short": ({"phases": [Phase(1, "head", 1e-2)]}, "it would save nothing"),
    "dropout": ({"make": dropping}, "draw random numbers"),
    "more layers train": ({"phases": [Phase(4, 2, 1e-2)]}, "some of the layers before the head train"),
    "somebody looks": ({"callbacks": lambda: [Looks()]}, "Looks may look at the images"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_exact_is_said_and_trained_as_usual(folder, tmp_path, caplog, case):
    options, reason = REASONS[case]
    given = options.pop("data", {})
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        both(folder, tmp_path, data=lambda: data_of(folder, **{"augment": "none", **given}), **options)
    said = [record.message for record in caplog.records if "frozen layers" in record.message]
    assert len(said) == 1, "once a phase, and not by the run that is told not to"
    assert reason in said[0]


def test_norm_layers_that_train_are_not_frozen(folder, tmp_path, caplog):
    pl.seed_everything(5, verbose=False)
    module = classifier()
    seen = Seen(module.model)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(tmp_path, callbacks=[FineTune([HEAD], train_norm=True)]).fit(module, data_of(folder))
    assert "their norm layers train (train_norm=True)" in caplog.text
    assert seen.training == 4 * (TRAIN // BATCH) * BATCH


@pytest.mark.parametrize("setting", ["always", 0, -1, True, 2.5])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(PhaseError, match="`feature_cache` to be"):
        FineTune([HEAD], feature_cache=setting)


def test_too_little_room_is_said(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(feature_reuse, "IN_MEMORY", 0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_reuse.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        both(folder, tmp_path)
    assert "GB free" in caplog.text


# -- modules of somebody else ------------------------------------------------------------------------------------------


class Foreign(pl.LightningModule):
    """Takes the package's batches and, with ``split``, says what its head takes."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.noisy = noisy
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(24, 2)
        self.ran = 0

    def forward_features(self, images):
        self.ran += len(images)
        return self.body(images).flatten(1)

    def forward(self, images):
        return self.head(self.forward_features(images))

    def training_step(self, batch, batch_idx):
        images = batch["image"] * 1.01 if self.noisy else batch["image"]
        loss = nn.functional.cross_entropy(self(images), batch["label"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch["image"]), batch["label"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def train_foreign(folder, out, setting, **options):
    pl.seed_everything(5, verbose=False)
    module = Foreign(**options)
    quiet_trainer(out, callbacks=[FineTune([HEAD], feature_cache=setting)]).fit(module, data_of(folder))
    return module


def test_a_foreign_module_that_says_what_its_head_takes_is_served(folder, tmp_path):
    reused, plain = (train_foreign(folder, tmp_path / setting, setting) for setting in ("exact", "off"))
    assert_same_bits(reused.state_dict(), plain.state_dict())
    assert reused.ran < plain.ran


def test_a_step_that_sees_more_of_an_image_is_found_out(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        reused = train_foreign(folder, tmp_path / "exact", "exact", noisy=True)
    assert "`training_step` of Foreign sees more of images than `forward_features` gives" in caplog.text
    assert_same_bits(reused.state_dict(), train_foreign(folder, tmp_path / "off", "off", noisy=True).state_dict())
