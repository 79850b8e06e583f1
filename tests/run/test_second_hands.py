"""Who else would freeze layers or set the rates: refused by name, warned of, or taken over."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    LearningRateFinder,
    LearningRateMonitor,
    StochasticWeightAveraging,
)
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, ReduceLROnPlateau

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, LRRangeTest, OneCycle, ProgressiveResizing
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError, UnsupportedError
from tests.foreign import ForeignNet, Probe, Scheduled, StopAfter, fitted, loader, probed

HANDS = {
    "fine_tune": lambda **options: FineTune([Phase(1, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))], **options),
    "one_cycle": lambda **options: OneCycle((1e-3, 1e-2), **options),
}
SCHEDULERS = {
    "plateau": lambda optimizer: {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "train_loss"},
    "one_cycle": lambda optimizer: {"scheduler": OneCycleLR(optimizer, 1.0, 12), "interval": "step"},
    "warm_up": lambda optimizer: {"scheduler": LinearLR(optimizer, 0.01)},
}


def scheduled(kind: str) -> Scheduled:
    return Scheduled(SCHEDULERS[kind], "sgd")


class Milestones(BaseFinetuning):
    """As pl_examples has it."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.stem)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.stem, optimizer)


def fit(tmp_path, module, *callbacks, **options) -> Probe:
    pl.seed_everything(3, verbose=False)
    return probed(tmp_path, *callbacks, module=module, **{"max_epochs": 2, **options})


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_scheduler_is_replaced_on_request(tmp_path, caplog, kind, hand):
    with caplog.at_level(logging.INFO):
        replaced = fit(tmp_path, scheduled(kind), HANDS[hand](scheduler="replace"))
    said = [record.message for record in caplog.records if "takes the place of" in record.message]
    assert len(said) == 1
    assert "`configure_optimizers` of Scheduled" in said[0]
    alone = fit(tmp_path, ForeignNet("sgd"), HANDS[hand]())
    assert replaced.lrs == alone.lrs
    assert replaced.momentum == alone.momentum


@pytest.mark.parametrize("hand", HANDS)
def test_without_the_request_the_refusal_names_it(tmp_path, hand):
    with pytest.raises(UnsupportedError, match=r"ReduceLROnPlateau.*\(scheduler=\"replace\"\)"):
        fit(tmp_path, scheduled("plateau"), HANDS[hand]())
    with pytest.raises(PhaseError, match=r"`scheduler` to be one of .*'replace'.*got 'keep'"):
        HANDS[hand](scheduler="keep")


def test_a_run_whose_scheduler_was_replaced_resumes_to_the_same_bits(tmp_path):
    def run(epochs, resume=None):
        pl.seed_everything(3, verbose=False)
        module = scheduled("one_cycle")
        trainer = fitted(
            tmp_path, HANDS["fine_tune"](scheduler="replace"), StopAfter(epochs), module=module, ckpt_path=resume
        )
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module.state_dict()

    whole = run(2)
    with pytest.warns(UserWarning, match="stopped"):
        run(1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["lr_schedulers"] == []
    resumed = run(2, tmp_path / "last.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("other", [StochasticWeightAveraging(1e-3), LearningRateFinder()])
@pytest.mark.parametrize("hand", HANDS)
def test_another_callback_that_sets_the_rates_is_refused_by_name(tmp_path, hand, other):
    with pytest.raises(PhaseError, match=f"and {type(other).__name__} both set the learning rates"):
        fit(tmp_path, ForeignNet(), HANDS[hand](), other)


def test_unfreezing_leaves_the_rates_to_weight_averaging(tmp_path):
    """From half of the epochs on, they fall to those of the averaging."""
    unfreezing, averaging = GradualUnfreezing({0: "head", 1: "all"}), StochasticWeightAveraging(1e-3, 0.5, 1)
    probe = fit(tmp_path, ForeignNet(), unfreezing, averaging, max_epochs=4)
    assert set(probe.lrs[0]) == {1e-2}
    assert probe.lrs[-1] == pytest.approx([1e-3] * len(probe.lrs[-1]))
    assert probe.trainable[0] < probe.trainable[-1]


@pytest.mark.parametrize("hand", [*HANDS, "unfreezing"])
@pytest.mark.parametrize("other", [Milestones(), BackboneFinetuning()])
def test_lightnings_own_way_to_freeze_is_refused_by_name_and_leaves_nothing_frozen(tmp_path, hand, other):
    module = ForeignNet()
    module.backbone = module.body
    ours = HANDS[hand]() if hand in HANDS else GradualUnfreezing({0: "head", 1: "all"})
    with pytest.raises(PhaseError, match=f"and {type(other).__name__} both freeze"):
        fit(tmp_path, module, ours, other)
    assert all(param.requires_grad for param in module.parameters())


@pytest.mark.parametrize("before_step", [True, False])
def test_a_hook_that_sets_the_rates_is_warned_of_once(tmp_path, before_step):
    class Warmup(ForeignNet):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            if before_step:
                self.warm_up(optimizer)
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            if not before_step:
                self.warm_up(optimizer)

        def warm_up(self, optimizer):
            for group in optimizer.param_groups:
                group["lr"] = 0.123

    with pytest.warns(UserWarning, match=r"OneCycle set a learning rate of .* changed it to 0.123.*Warmup") as record:
        fit(tmp_path, Warmup(), HANDS["one_cycle"]())
    assert len([each for each in record if "somebody changed" in str(each.message)]) == 1


def test_a_range_test_that_sets_the_rate_is_no_second_hand(tmp_path, recwarn):
    fit(tmp_path, ForeignNet(), HANDS["one_cycle"](), LRRangeTest(num_steps=20, suggest="valley"))
    assert not [each for each in recwarn if "somebody changed" in str(each.message)]


# -- optimizers that have no rate, or one for all ----------------------------------------------------------------------


class FindsItsOwn(torch.optim.SGD):
    """As transformers' Adafactor with lr=None."""

    def __init__(self, params) -> None:
        super().__init__(params, lr=1e-2)
        for group in self.param_groups:
            group["lr"] = None

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 1e-2
        result = super().step(closure)
        for group in self.param_groups:
            group["lr"] = None
        return result


def with_optimizer(make) -> ForeignNet:
    module = ForeignNet()
    module.configure_optimizers = lambda: make(module.parameters())
    return module


@pytest.mark.parametrize("hand", [*HANDS, "range_test"])
def test_an_optimizer_that_finds_its_rate_is_refused_by_what_sets_it(tmp_path, hand):
    ours = HANDS[hand]() if hand in HANDS else LRRangeTest(num_steps=20)
    with pytest.raises(UnsupportedError, match=r"FindsItsOwn has none \(lr=None\)"):
        fit(tmp_path, with_optimizer(FindsItsOwn), ours)


@pytest.mark.parametrize("make", [FindsItsOwn, lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=2)])
def test_layers_unfreeze_with_an_optimizer_of_one_rate_or_none(tmp_path, make):
    module = with_optimizer(make)
    before = {name: value.clone() for name, value in module.named_parameters()}
    trained: list[set[str]] = []

    class Moved(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            now = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
            trained.append({name for name, value in now.items() if not torch.equal(value, before[name])})
            before.update(now)

    fitted(tmp_path, GradualUnfreezing({0: "head", 1: "all", 2: "head"}), Moved(), module=module, max_epochs=3)
    assert trained[0] == trained[2] == {"head.weight", "head.bias"}, "what LBFGS knows of others moves nothing"
    assert trained[1] > trained[0]


def test_sizes_are_tried_with_an_optimizer_that_finds_its_rate(tmp_path):
    module = with_optimizer(FindsItsOwn)
    before = module.head.weight.clone()
    fitted(tmp_path, ProgressiveResizing({0: 64}), module=module, max_epochs=1)
    assert not torch.equal(module.head.weight, before)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_table_of_results_has_metrics_and_no_rates(tmp_path, capsys):
    fitted(tmp_path, HANDS["fine_tune"](), LearningRateMonitor(), data=(loader(), loader(8)), max_epochs=2, logger=True)
    shown = capsys.readouterr().out.partition("Phases and their results")[2]
    assert "val_loss" in shown
    assert "lr-" not in shown
