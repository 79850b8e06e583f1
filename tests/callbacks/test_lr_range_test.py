"""The range test leaves no trace, keeps what it must, and ends with a rate that can be used."""

import json
from collections import Counter, deque
from pathlib import Path
from random import Random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, default_collate
from torchmetrics.classification import MulticlassAccuracy

from lightning_finetune.callbacks import GradualUnfreezing, OneCycle
from lightning_finetune.callbacks.lr_range_test import LRRangeTest
from lightning_finetune.errors import PhaseError
from tests.foreign import ForeignNet, Probe, Resumable, Scheduled, fitted, images, loader, quiet_trainer
from tests.resuming import assert_same_bits, run


class StatefulNet(ForeignNet):
    """Keeps all that a module can keep: metrics, counters, lists, a plain tensor, a non-persistent buffer."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.accuracy = MulticlassAccuracy(4)
        self.seen = 0
        self.history: list[float] = []
        self.mean = torch.zeros(())
        self.register_buffer("ema", torch.zeros(4), persistent=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x + 0.1 * torch.randn_like(x))  # augmentation by the global generator
        self.accuracy.update(logits, y)
        self.seen += len(x)
        self.history.append(float(logits.detach().mean()))
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean()
        self.ema.mul_(0.9).add_(logits.detach().mean(0), alpha=0.1)
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("train_accuracy", self.accuracy.compute())
        self.accuracy.reset()

    def configure_optimizers(self):
        groups = [
            {"params": [p for n, p in self.named_parameters() if not n.startswith("head")], "lr": 1e-3},
            {"params": self.head.parameters(), "lr": 1e-2},
        ]
        return torch.optim.SGD(groups, momentum=0.9) if self.kind == "sgd" else torch.optim.AdamW(groups)


def train(tmp_path, range_test, optimizer="adamw", workers=0, epochs=3, extra=(), **kwargs):
    pl.seed_everything(3, verbose=False)
    generator = torch.Generator().manual_seed(5)
    data = loader(shuffle=True, generator=generator, num_workers=workers, persistent_workers=workers > 0)
    module = StatefulNet(optimizer=optimizer)
    logger = CSVLogger(tmp_path)
    callbacks = [*([range_test] if range_test else []), *extra]
    trainer = fitted(
        tmp_path,
        *callbacks,
        module=module,
        data=(data, loader(16, seed=1)),
        max_epochs=epochs,
        logger=logger,
        log_every_n_steps=1,
        **kwargs,
    )
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "module": [module.seen, module.history, module.mean, module.ema],
        "logged": logger.experiment.metrics,
        "random": torch.get_rng_state(),
        "data": generator.get_state(),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"workers": 2},
    ],
    ids=["adamw", "sgd-accumulating-clipped", "bf16", "persistent-workers"],
)
def test_a_run_with_it_equals_a_run_without_it_bit_for_bit(tmp_path, options):
    range_test = LRRangeTest(num_steps=20, at_epochs=(0, 1), apply=False)
    without = train(tmp_path / "without", None, **options)
    with_it = train(tmp_path / "with", range_test, **options)
    assert len(range_test.results[0].lrs) == len(range_test.results[1].lrs) == 20
    assert_same_bits(without, with_it)


def test_the_loss_scaler_is_put_back(tmp_path):
    """As Lightning scales in 16-mixed on a GPU; from so large a scale the first steps are left out, and halve it."""

    def scaled():
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=7))

    plugins = scaled(), scaled()
    range_test = LRRangeTest(num_steps=20, at_epochs=(0, 1), apply=False)
    without = train(tmp_path / "without", None, plugins=plugins[0])
    with_it = train(tmp_path / "with", range_test, plugins=plugins[1])
    assert len(range_test.results[1].lrs) == 20
    assert_same_bits(without, with_it)
    assert plugins[0].state_dict() == plugins[1].state_dict()
    assert plugins[0].state_dict()["scale"] != 2.0**30


def test_the_same_after_an_unfreezing_under_one_cycle(tmp_path):
    def phased():
        return [GradualUnfreezing({0: "head", 1: "all"}), OneCycle((1e-4, 1e-2))]

    without = train(tmp_path / "without", None, extra=phased())
    with_it = train(tmp_path / "with", LRRangeTest(num_steps=20, at_epochs=(1,), apply=False), extra=phased())
    assert_same_bits(without, with_it)


class HoldsMuch(ForeignNet):
    """Buffers that are assigned, a queue, an average of the weights, generators: what a step changes anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("queue", torch.zeros(0, 4))
        self.register_buffer("first", None)
        self.numpy, self.torch, self.python = np.random.default_rng(0), torch.Generator().manual_seed(0), Random(0)
        self.numbers, self.seen, self.recent = iter(range(10_000)), Counter(), deque(maxlen=3)
        self.ema = [Average(self)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        noise = torch.randn(x.shape, generator=self.torch) * self.numpy.random() * self.python.random()
        logits = self(x + 0.1 * noise)
        self.steps = self.steps + 1
        self.queue = torch.cat([self.queue, logits.detach()])[-16:]
        if self.first is None:
            self.first = logits.detach()
            self.register_buffer("late", torch.zeros(1))
        self.late = self.late + next(self.numbers)
        self.seen.update(y.tolist())
        self.recent.append(float(logits.detach().mean()))
        self.ema[0].update()
        return F.cross_entropy(logits, y) + 0.01 * (self.late.sum() % 3) * logits.mean()

    def configure_optimizers(self):
        return Counting(self.parameters(), lr=1e-2)


class Average:
    """An average of weights that is no module."""

    def __init__(self, module: pl.LightningModule) -> None:
        self.module, self.updates = module, 0
        self.shadow = {name: param.detach().clone() for name, param in module.named_parameters()}

    def update(self) -> None:
        self.updates += 1
        for name, param in self.module.named_parameters():
            self.shadow[name] = 0.9 * self.shadow[name] + 0.1 * param.detach()


class Counting(torch.optim.SGD):
    """Has attributes of its own, and steps by them."""

    made = 0

    def step(self, closure=None):
        self.made += 1
        for group in self.param_groups:
            group["lr"] = group["lr"] / (1 + 0.01 * self.made)
        return super().step(closure)


class Draws(Dataset):
    """Images with noise of a generator of its own, the more of it the more images it has given."""

    def __init__(self) -> None:
        self.images, self.generator, self.given = images(48), np.random.default_rng(1), 0

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index):
        image, label = self.images[index]
        self.given += 1
        return image + 0.001 * self.given * self.generator.random(), label


class Collate:
    """Batches with noise of a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, items):
        x, y = default_collate(items)
        return x + 0.1 * torch.randn(x.shape, generator=self.generator), y


class Stream(IterableDataset):
    """Goes on where it stopped."""

    def __init__(self) -> None:
        self.at, self.images = 0, images(48)

    def __iter__(self):
        for _ in range(48):
            self.at += 5
            yield self.images[self.at % 48]


LOADERS = {
    "data set": lambda: DataLoader(Draws(), 8),
    "collate": lambda: DataLoader(images(48), 8, collate_fn=Collate()),
    "sampler": lambda: DataLoader(images(48), 8, sampler=RandomSampler(images(48), generator=torch.Generator())),
    "stream": lambda: DataLoader(Stream(), 8),
    "no DataLoader": Resumable,
    "several": lambda: {"a": DataLoader(Draws(), 8), "b": [DataLoader(Stream(), 8)]},
}


@pytest.mark.parametrize("name", LOADERS)
def test_nothing_that_module_optimizer_and_data_hold_shows_that_there_was_a_test(tmp_path, name):
    class Either(HoldsMuch):
        def training_step(self, batch, batch_idx):
            batches = [batch["a"], batch["b"][0]] if isinstance(batch, dict) else [batch]
            return sum(super(Either, self).training_step(one, batch_idx) for one in batches)

    def fit(*callbacks):
        pl.seed_everything(3, verbose=False)
        module = Either()
        trainer = fitted(tmp_path, *callbacks, module=module, data=LOADERS[name](), max_epochs=2)
        averages = module.ema[0].shadow, module.ema[0].updates
        rest = [module.seen, list(module.recent), next(module.numbers), trainer.optimizers[0].made, averages]
        return [dict(module.state_dict()), rest]

    assert_same_bits(fit(), fit(LRRangeTest(num_steps=20, at_epochs=(0, 1), apply=False)))


class Interrupted(StatefulNet):
    """Raises in the middle of the range test, once."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def training_step(self, batch, batch_idx):
        if self.seen == 8 * 5:  # the sixth step of the test
            self.drop.p = 0.9
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_interruption_in_its_middle_leaves_everything_as_it_was(tmp_path, error):
    pl.seed_everything(3, verbose=False)
    module = Interrupted(error)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[LRRangeTest(num_steps=20)])
    callbacks = list(trainer.callbacks)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        trainer.fit(module, loader())
    assert_same_bits(before, dict(module.state_dict()))
    assert module.seen == 0
    assert module.history == []
    assert not trainer.optimizers[0].state
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [1e-3, 1e-2]
    assert trainer.callbacks == callbacks
    assert "log" not in vars(module)


def test_it_counts_optimizer_steps_and_begins_a_small_loader_again(tmp_path):
    class Counting(ForeignNet):
        batches = 0

        def training_step(self, batch, batch_idx):
            Counting.batches += 1
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            raise AssertionError("the range test validated")

    range_test = LRRangeTest(num_steps=30, apply=False)
    fitted(
        tmp_path,
        range_test,
        module=Counting(),
        data=(loader(count=16), loader(8)),
        max_epochs=1,
        accumulate_grad_batches=3,
        limit_val_batches=0,
    )
    assert len(range_test.results[0].losses) == 30
    assert Counting.batches == 30 * 3 + 2


@pytest.mark.parametrize(
    ("count", "accumulate", "steps"), [(16, 1, 16), (48, 1, 24), (48, 3, 16), (400, 1, 100)], ids=str
)
def test_the_test_is_bounded_by_the_data_and_says_its_length_and_its_time(tmp_path, caplog, count, accumulate, steps):
    range_test = LRRangeTest(apply=False)
    options = {"max_epochs": 1, "max_steps": 1, "limit_val_batches": 0, "accumulate_grad_batches": accumulate}
    with caplog.at_level("INFO"):
        quiet_trainer(tmp_path, callbacks=[range_test], **options).fit(ForeignNet(), loader(count))
    made = len(range_test.results[0].lrs)
    assert made <= steps
    assert range_test.results[0].lrs[1] / range_test.results[0].lrs[0] == pytest.approx(1e8 ** (1 / steps))
    assert f"LRRangeTest: up to {steps} steps at rates from 1e-07" in caplog.text
    assert f"LRRangeTest: {made} steps took " in caplog.text


def test_by_default_it_sets_a_rate_a_decade_below_where_the_loss_shoots_up(tmp_path):
    probe, range_test = Probe(), LRRangeTest()
    quiet_trainer(tmp_path, max_epochs=1, callbacks=[range_test, probe]).fit(ForeignNet(), loader(96))
    curve = range_test.results[0]
    assert probe.lrs[0][-1] == pytest.approx(curve.suggestions["elbow"])
    shot_up = [lr for lr, loss in zip(curve.lrs, curve.losses, strict=True) if loss > 2 * max(curve.losses[:5])]
    assert 10 * curve.suggestions["elbow"] < min(shot_up) * 1.01


def test_groups_keep_their_ratio_during_the_test_and_after_it(tmp_path):
    seen: list[list[float]] = []

    class Watching(StatefulNet):
        def on_before_optimizer_step(self, optimizer):
            seen.append([group["lr"] for group in optimizer.param_groups])

    range_test = LRRangeTest(num_steps=40, suggest="valley")
    fitted(tmp_path, range_test, module=Watching(), max_epochs=1)
    test, run = seen[: len(range_test.results[0].lrs)], seen[len(range_test.results[0].lrs) :]
    assert all(low / high == pytest.approx(0.1) for low, high in seen)
    assert [high for _, high in test] == pytest.approx(range_test.results[0].lrs)
    assert run[0][1] == pytest.approx(range_test.results[0].suggestions["valley"])


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=12, cycle_momentum=False),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=12),
    ],
    ids=["one-cycle", "lambda", "cosine"],
)
def test_the_peak_of_the_modules_own_scheduler_becomes_the_suggestion(tmp_path, make):
    """Trap 19: Lightning's finder sets the optimizer's rate, and the scheduler overwrites it."""
    probe, range_test = Probe(), LRRangeTest(num_steps=40, suggest="valley")
    module = Scheduled(lambda optimizer: {"scheduler": make(optimizer), "interval": "step"})
    fitted(tmp_path, range_test, probe, module=module, max_epochs=2)
    assert max(lrs[0] for lrs in probe.lrs) == pytest.approx(range_test.results[0].suggestions["valley"], rel=0.01)


@pytest.mark.parametrize("first", [True, False], ids=["listed-first", "listed-last"])
def test_the_peak_of_one_cycle_becomes_the_suggestion(tmp_path, first):
    probe, range_test = Probe(), LRRangeTest(num_steps=40, suggest="valley")
    cycle = OneCycle(max_lr=(1e-3, 1e-2))
    callbacks = [range_test, cycle, probe] if first else [cycle, probe, range_test]
    quiet_trainer(tmp_path, max_epochs=4, callbacks=callbacks).fit(ForeignNet(), loader(64))
    peak = range_test.results[0].suggestions["valley"]
    tops = [lrs[-1] for lrs in probe.lrs]
    assert tops[8] == pytest.approx(peak)
    assert max(tops) == pytest.approx(peak)
    assert probe.lrs[8][0] / tops[8] == pytest.approx(0.1)


def test_a_resumed_run_does_not_repeat_it_and_ends_with_the_same_bits(tmp_path):
    def fit(out, resume=None, range_test=None):
        pl.seed_everything(3, verbose=False)
        module, saver = ForeignNet(), ModelCheckpoint(out, filename="{epoch}", save_top_k=-1)
        range_test = range_test or LRRangeTest(num_steps=40, at_epochs=(1,), suggest="valley")
        fitted(
            out,
            OneCycle(1e-2),
            range_test,
            saver,
            module=module,
            ckpt_path=resume,
            max_epochs=4,
            enable_checkpointing=True,
        )
        return dict(module.state_dict()), range_test

    whole, first = fit(tmp_path / "whole")
    resumed, again = fit(tmp_path / "parts", resume=tmp_path / "whole" / "epoch=1.ckpt")
    assert_same_bits(whole, resumed)
    assert again.results == first.results
    assert again.results[1].suggestions["valley"] > 0


def test_two_processes_see_the_mean_loss_and_end_with_the_same_rate(tmp_path):
    options = ["--which", "range_test", "--plain", "--optimizer", "adamw"]
    single = run(tmp_path / "single", *options, "--batch-size", 16)
    first = run(tmp_path / "pair", *options, "--batch-size", 8, "--strategy", "ddp", "--devices", 2)
    second = torch.load(tmp_path / "pair" / "rank1.pt")
    assert first["curves"] == second["curves"]
    for alone, together in zip(single["curves"], first["curves"], strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert together["suggestions"]["valley"] == alone["suggestions"]["valley"]
    assert_same_bits(first["optimizer"]["param_groups"], second["optimizer"]["param_groups"])
    assert_same_bits(first["params"], second["params"])


def test_its_steps_are_not_logged_and_no_checkpoint_is_written(tmp_path):
    monitor = LearningRateMonitor("step")
    logger = CSVLogger(tmp_path)
    trainer = fitted(
        tmp_path, LRRangeTest(num_steps=30, apply=False), monitor, max_epochs=1, logger=logger, log_every_n_steps=1
    )
    logged = [row for row in logger.experiment.metrics if "train_loss" in row]
    assert len(logged) <= 6
    assert trainer.global_step == 6
    assert not list(tmp_path.rglob("*.ckpt"))


def test_tests_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(PhaseError, match="start_lr"):
        LRRangeTest(start_lr=1.0, end_lr=0.1)
    with pytest.raises(PhaseError, match="suggest"):
        LRRangeTest(suggest="steepest")
    with pytest.raises(PhaseError, match="ends before epoch 3"):
        quiet_trainer(tmp_path, max_epochs=2, callbacks=[LRRangeTest(at_epochs=(3,))]).fit(ForeignNet(), loader())


def test_the_curve_goes_to_wandb_as_a_picture_and_as_a_table(tmp_path, monkeypatch):
    """Read back from what an offline run leaves on disk."""
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="p", save_dir=tmp_path, offline=True)
    range_test = LRRangeTest(num_steps=20, apply=False)
    fitted(tmp_path, range_test, max_epochs=1, logger=logger)
    files = Path(logger.experiment.dir)
    wandb.finish()
    assert Image.open(next(files.rglob("lr_range_epoch_0_*.png"))).size[0] > 500
    table = json.loads(next(files.rglob("lr_range_epoch_0_losses_*.table.json")).read_text())
    assert table["columns"] == ["lr", "loss", "smoothed"]
    assert [row[1] for row in table["data"]] == pytest.approx(range_test.results[0].losses)
    assert Image.open(tmp_path / "p" / logger.version / "lr_range_epoch_0.png").size[0] > 500
