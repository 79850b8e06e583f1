"""The head that starts solved, in real runs on real images."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune import FineTune, ImageClassifier, Phase
from lightning_finetune.engine.freezing import learned_norms
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.run import head_start
from tests.foreign import ForeignNet, fitted, loader, quiet_trainer
from tests.resuming import process


class Tiny(torch.nn.Module):
    """A backbone of one convolution, whose features tell the classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


class AtStart(pl.Callback):
    """Accuracy on the training images before the first step, and the state of the norm layer."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            return
        with evaluating(pl_module):
            hits = [(pl_module(x).argmax(1) == y).float() for x, y in trainer.train_dataloader]
        self.accuracy = float(torch.cat(hits).mean())


def fit(tmp_path, module, fine_tune, **options):
    pl.seed_everything(1, verbose=False)
    start = AtStart()
    trainer = fitted(tmp_path, fine_tune, start, module=module, data=(loader(), loader(16, seed=1)), **options)
    return trainer, start


def task(**options) -> ImageClassifier:
    pl.seed_everything(0, verbose=False)
    return ImageClassifier(Tiny(), num_classes=4, weights=False, **options)


def test_a_new_head_fits_before_the_first_step(tmp_path):
    _, solved = fit(tmp_path, task(), FineTune(1))
    _, random = fit(tmp_path, task(), FineTune([Phase(1)]))
    assert solved.accuracy > 0.9
    assert random.accuracy < 0.6


def test_wide_features_are_taken_of_fewer_images(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(head_start, "MOST_NUMBERS", 6 * 16)
    with caplog.at_level("INFO"):
        fit(tmp_path, task(), FineTune(1))
    batch = len(next(iter(loader()))[0])
    assert f"features of {-(-16 // batch) * batch} training images" in caplog.text


def test_a_head_that_was_trained_or_loaded_is_not_solved_again(tmp_path):
    first = task()
    fit(tmp_path, first, FineTune(1))
    second = task()
    second.load_state_dict(first.state_dict())
    for module in (first, second):
        before = module.model.head[-1].weight.clone()
        fit(tmp_path, module, FineTune(1, lr=1e-12))
        torch.testing.assert_close(module.model.head[-1].weight, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("module", [lambda: task(head="concat_pool"), ForeignNet])
def test_a_head_that_cannot_be_solved_is_trained_alone_first(tmp_path, module):
    fine_tune = FineTune(4)
    fit(tmp_path, module(), fine_tune)
    assert [(phase.epochs, phase.train) for phase in fine_tune.plan_of_run.phases] == [(1, "head"), (3, "all")]


def test_the_trainer_says_how_many_epochs(tmp_path):
    fine_tune = FineTune()
    trainer, _ = fit(tmp_path, task(), fine_tune, max_epochs=3)
    assert [(phase.epochs, phase.train) for phase in fine_tune.plan_of_run.phases] == [(3, "all")]
    assert trainer.current_epoch == 3


def test_gradients_are_clipped_where_the_user_says_nothing(tmp_path):
    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.clip = trainer.gradient_clip_val

    for given, expected in ((None, 1.0), (0.25, 0.25)):
        norms = Norms()
        trainer = fitted(
            tmp_path, FineTune(1), norms, module=task(), data=(loader(), loader(16, seed=1)), gradient_clip_val=given
        )
        assert norms.clip == expected
        assert trainer.gradient_clip_val == given


def test_two_processes_solve_the_head_of_all_images_together(tmp_path):
    """Each sees half of them; the run itself fails where replicas differ by a bit."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 3)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 255, (70, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.jpg")
    words = ["--which", "recipe", "--images", tmp_path, "--batch-size", 2, "--strategy", "ddp", "--devices", 2]
    done = process("tests.runs", tmp_path / "out", *words)
    assert (done.stdout + done.stderr).count("features of 24 training images") == 1


# -- norm layers -------------------------------------------------------------------------------------------------------


def statistics(module) -> torch.Tensor:
    return torch.cat([buffer.flatten().float() for name, buffer in module.named_buffers() if "running" in name])


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("train_norm", [True, False])
def test_statistics_that_were_learnt_stay_in_every_phase(tmp_path, pretrained, train_norm):
    """A new norm layer has nothing to keep; one that is told to train follows the batches."""
    module = ForeignNet()
    if pretrained:
        module.train()
        module(torch.randn(32, 3, 8, 8))
        assert learned_norms(module) == ["stem.1", "body.1", "neck.1"]
    before, weight = statistics(module), module.body[1].weight.clone()
    quiet_trainer(tmp_path, callbacks=[FineTune([Phase(1, "head"), Phase(1, "all")], train_norm=train_norm)]).fit(
        module, loader(), loader(16, seed=1)
    )
    assert torch.equal(statistics(module), before) == (pretrained and not train_norm)
    assert not torch.equal(module.body[1].weight, weight)  # what it scales by is learnt all the same
    assert module.training


def test_a_resumed_run_holds_what_the_run_held(tmp_path):
    """New norm layers that train have statistics when the run is resumed, but not from before it."""
    phases = [Phase(1, "all"), Phase(1, "all")]
    whole = ForeignNet()
    pl.seed_everything(5, verbose=False)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    saver = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    fitted(
        tmp_path, FineTune(phases), saver, module=whole, data=(loader(), loader(16, seed=1)), enable_checkpointing=True
    )
    pl.seed_everything(5, verbose=False)
    resumed = ForeignNet()
    resumed.load_state_dict(state)
    quiet_trainer(tmp_path, callbacks=[FineTune(phases)]).fit(
        resumed, loader(), loader(16, seed=1), ckpt_path=tmp_path / "epoch=0.ckpt"
    )
    assert torch.equal(statistics(whole), statistics(resumed))
