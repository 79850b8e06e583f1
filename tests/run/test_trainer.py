"""What the callbacks owe to anybody's Trainer: its other callbacks, checkpoints, precision, second fits."""

import copy
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError, UnsupportedError
from tests.foreign import ForeignNet, Moved, Probe, Untrained, bits, fitted, loader, quiet_trainer
from tests.resuming import assert_same_bits

PHASES = [Phase(1, "head", 1e-2), Phase(1, 2, (None, 1e-2)), Phase(1, "all", (1e-3, 1e-2))]
KINDS = {
    "fine_tune": lambda: [FineTune(list(PHASES))],
    "unfreezing": lambda: [GradualUnfreezing({0: "head", 1: 2, 2: "all"})],
    "apart": lambda: [GradualUnfreezing({0: "head", 1: 2, 2: "all"}), OneCycle((1e-3, 1e-2))],
    "apart_turned": lambda: [OneCycle((1e-3, 1e-2)), GradualUnfreezing({0: "head", 1: 2, 2: "all"})],
}


@pytest.fixture(params=KINDS)
def callbacks(request):
    return KINDS[request.param]


def fit(tmp_path, callbacks, module=None, ckpt_path=None, seed=5, **options):
    pl.seed_everything(seed, verbose=False)
    module = module or ForeignNet()
    return fitted(tmp_path, *callbacks, module=module, ckpt_path=ckpt_path, **{"max_epochs": 3, **options}), module


# -- parameter groups --------------------------------------------------------------------------------------------------


class Groups(pl.Callback):
    """The parameter groups at the start of the fit and at each step: which parameters, under which names."""

    def __init__(self) -> None:
        self.seen = []

    def look(self, optimizer) -> None:
        self.seen.append([(group["name"], tuple(map(id, group["params"]))) for group in optimizer.param_groups])

    def on_train_start(self, trainer, pl_module):
        self.look(trainer.optimizers[0])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.look(optimizer)


def test_groups_are_made_once_and_never_change(tmp_path, callbacks):
    groups = Groups()
    _, module = fit(tmp_path, [*callbacks(), groups])
    assert len(groups.seen) == 19
    assert all(seen == groups.seen[0] for seen in groups.seen)
    names = [name for name, _ in groups.seen[0]]
    assert names == ["stem", "body", "neck", "head"]
    held = [key for _, params in groups.seen[0] for key in params]
    assert sorted(held) == sorted(map(id, module.parameters()))


@pytest.mark.parametrize("first", [True, False])
def test_a_monitor_logs_stable_names_and_the_rate_of_each_step(tmp_path, callbacks, first):
    probe, monitor = Probe(), LearningRateMonitor("step", log_momentum=True)
    ours = [*callbacks(), probe]
    all_callbacks = [monitor, *ours] if first else [*ours, monitor]
    logger = CSVLogger(tmp_path)
    fit(tmp_path, all_callbacks, ForeignNet("sgd"), logger=logger, log_every_n_steps=1)
    logged = pd.read_csv(Path(logger.log_dir) / "metrics.csv").filter(regex="^lr-").dropna(how="all")
    parts = ["stem", "body", "neck", "head"]
    assert {name for name in logged if "momentum" not in name} == {f"lr-SGD/{part}" for part in parts}
    assert logged.notna().all(axis=None)  # at the first step as at the last
    np.testing.assert_allclose(logged[[f"lr-SGD/{part}" for part in parts]], probe.lrs, rtol=1e-6)
    np.testing.assert_allclose(logged["lr-SGD/head-momentum"], probe.momentum, rtol=1e-6)


class TwoGroups(ForeignNet):
    """Weights decayed, the rest not, at rates of their own."""

    def configure_optimizers(self):
        many = [param for param in self.parameters() if param.ndim >= 2]
        few = [param for param in self.parameters() if param.ndim < 2]
        groups = [{"params": many, "weight_decay": 0.3, "eps": 1e-6}, {"params": few, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.88))


def test_regrouping_keeps_the_hyper_parameters_of_the_modules_groups(tmp_path):
    trainer, _ = fit(tmp_path, [FineTune([Phase(1, "head", 1e-2, moms=None)])], TwoGroups(), max_epochs=1)
    groups = trainer.optimizers[0].param_groups
    assert len(groups) == 8
    for group in groups:
        weights = all(param.ndim >= 2 for param in group["params"])
        assert (group["weight_decay"], group["eps"]) == ((0.3, 1e-6) if weights else (0.0, 1e-8))
        assert group["betas"] == (0.8, 0.88)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, callbacks):
    """A checkpoint after the second epoch, and the state of the module and optimizer at that moment."""
    trainer, module = fit(tmp_path, callbacks(), TwoGroups(), max_epochs=3, limit_train_batches=2)
    trainer.save_checkpoint(tmp_path / "with.ckpt")
    return tmp_path / "with.ckpt", module, trainer.optimizers[0]


def test_a_checkpoint_loads_without_the_callbacks(tmp_path, saved):
    path, module, optimizer = saved
    assert len(torch.load(path, weights_only=False)["optimizer_states"][0]["param_groups"]) == 2

    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            assert_same_bits(bits(pl_module), bits(module))
            ours, theirs = optimizer.state, trainer.optimizers[0].state
            for a, b in zip(module.parameters(), pl_module.parameters(), strict=True):
                assert torch.equal(ours[a]["exp_avg"], theirs[b]["exp_avg"])
                assert ours[a]["step"] == theirs[b]["step"]

    trainer, plain = fit(tmp_path, [Look()], TwoGroups(), path, max_epochs=4, limit_train_batches=2)
    assert trainer.global_step == 8
    assert all(param.requires_grad for param in plain.parameters())
    fresh = TwoGroups()
    quiet_trainer(tmp_path).test(fresh, loader(8), ckpt_path=path, verbose=False)
    assert_same_bits(bits(fresh), bits(module))


def test_a_checkpoint_of_a_plain_run_loads_with_the_callbacks(tmp_path, callbacks):
    trainer, module = fit(tmp_path, [], TwoGroups(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")

    class Look(pl.Callback):
        def on_train_start(self, trainer_, pl_module):
            assert_same_bits(bits(pl_module), bits(module))
            ours, theirs = trainer.optimizers[0].state, trainer_.optimizers[0].state
            for a, b in zip(module.parameters(), pl_module.parameters(), strict=True):
                assert torch.equal(ours[a]["exp_avg"], theirs[b]["exp_avg"])

    probe = Probe()
    continued, _ = fit(tmp_path, [*callbacks(), Look(), probe], TwoGroups(), tmp_path / "plain.ckpt")
    assert continued.global_step == 18
    assert probe.trainable[0] == {
        "neck.0.weight",
        "neck.0.bias",
        "neck.1.weight",
        "neck.1.bias",
        "head.weight",
        "head.bias",
    }


def test_a_checkpoint_of_weights_alone_is_saved(tmp_path, callbacks):
    saver = ModelCheckpoint(tmp_path, save_weights_only=True, filename="weights")
    fit(tmp_path, [*callbacks(), saver], enable_checkpointing=True)
    assert "optimizer_states" not in torch.load(tmp_path / "weights.ckpt", weights_only=False)


def test_a_checkpoint_is_read_with_weights_only(saved):
    assert torch.load(saved[0], weights_only=True)["global_step"] == 6


# -- one callback, two fits --------------------------------------------------------------------------------------------


def test_a_callback_in_a_second_fit_does_as_a_new_one(tmp_path, callbacks):
    used = callbacks()
    fit(tmp_path, used, TwoGroups(), seed=1)
    probes = Probe(), Probe()
    _, again = fit(tmp_path, [*used, probes[0]], seed=2)
    _, fresh = fit(tmp_path, [*callbacks(), probes[1]], seed=2)
    assert probes[0].lrs == probes[1].lrs
    assert probes[0].trainable == probes[1].trainable
    assert_same_bits(bits(again), bits(fresh))


def test_a_used_callback_composes_with_a_new_one(tmp_path):
    unfreezing = GradualUnfreezing({0: "head", 1: "all"})
    fit(tmp_path, [unfreezing])
    cycle = OneCycle(1e-2)
    trainer, _ = fit(tmp_path, [cycle, unfreezing])
    trainer.save_checkpoint(tmp_path / "second.ckpt")
    saved = torch.load(tmp_path / "second.ckpt", weights_only=True)["callbacks"]
    assert {"OneCycle", "GradualUnfreezing"} <= {*saved}
    assert cycle.plan_of_run.at(0, 0).lrs is not None
    assert unfreezing.plan_of_run.at(0, 0).lrs is None, "whose rates it leaves to the cycle"


def test_a_module_may_be_fitted_by_one_callback_after_another(tmp_path):
    """As in the lessons: head, then all, in two calls; norm layers that the first froze train in the second."""
    _, module = fit(tmp_path, [FineTune([Phase(1, "head", 1e-2)])], max_epochs=1)
    before = bits(module)
    fit(tmp_path, [FineTune([Phase(1, "all", 1e-2)])], module, max_epochs=1)
    for name, value in bits(module).items():
        assert not torch.equal(value, before[name]), name


def test_the_callers_phases_and_callbacks_are_not_changed(tmp_path):
    phases = list(PHASES)
    stopping, saver = EarlyStopping("train_loss", patience=9), ModelCheckpoint(tmp_path, save_last=True)
    given = [FineTune(phases), stopping, saver]
    trainer, _ = fit(tmp_path, given, enable_checkpointing=True)
    assert phases == PHASES
    assert all(any(callback is mine for callback in trainer.callbacks) for mine in given)
    schedule = {0: "head", 1: "all"}
    kept = copy.deepcopy(schedule)
    fit(tmp_path, [GradualUnfreezing(schedule)])
    assert schedule == kept


# -- randomness --------------------------------------------------------------------------------------------------------


def test_a_run_is_seeded_by_torch_where_lightning_was_not(tmp_path, callbacks, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    ends = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        module = ForeignNet(dropout=0.5)
        torch.manual_seed(seed)
        quiet_trainer(tmp_path, callbacks=callbacks(), max_epochs=3).fit(module, loader())
        ends.append(bits(module))
    assert_same_bits(ends[0], ends[1])
    assert not torch.equal(ends[0]["head.weight"], ends[2]["head.weight"])


# -- precision, clipping, compile --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16-mixed"},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    ],
    ids=["bf16", "norm", "value"],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_thawed_weights_move_and_frozen_ones_do_not(tmp_path, callbacks, options, optimizer):
    moved = Moved()
    fit(tmp_path, [*callbacks(), moved], ForeignNet(optimizer), **options)
    assert moved.parts == [{"head"}, {"neck", "head"}, {"stem", "body", "neck", "head"}]


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"capturable": False, "amsgrad": True}])
def test_every_kind_of_step_follows_an_unfreezing(tmp_path, options):
    moved, module = Moved(), ForeignNet()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=1e-2, **options)
    fit(tmp_path, [*KINDS["apart"](), moved], module)
    assert moved.parts == [{"head"}, {"neck", "head"}, {"stem", "body", "neck", "head"}]


def test_a_compiled_module_follows_an_unfreezing(tmp_path, callbacks):
    """What is traced while layers are frozen must not be used when they train; no kernels are needed to see that."""
    moved = Moved()
    compiled = torch.compile(ForeignNet(), backend="aot_eager")
    pl.seed_everything(0, verbose=False)
    quiet_trainer(tmp_path, callbacks=[*callbacks(), moved], max_epochs=3).fit(compiled, loader())
    assert moved.parts == [{"head"}, {"neck", "head"}, {"stem", "body", "neck", "head"}]


@pytest.mark.slow
def test_compiled_layers_follow_an_unfreezing(tmp_path):
    moved = Moved()
    module = ForeignNet(dropout=0.0)
    module.stem, module.body = torch.compile(module.stem), torch.compile(module.body)
    fit(tmp_path, [*KINDS["fine_tune"](), moved], module)
    assert moved.parts == [{"head"}, {"neck", "head"}, {"stem", "body", "neck", "head"}]


# -- what they refuse --------------------------------------------------------------------------------------------------


class HeadOnly(Untrained):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters())


class Manual(HeadOnly):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_parameters_missing_from_the_optimizer_are_named_before_the_first_batch(tmp_path, callbacks):
    with pytest.raises(PhaseError, match=r"No optimizer holds stem, body, neck .* of HeadOnly.*`configure_optimizers`"):
        fit(tmp_path, callbacks(), HeadOnly())


def test_manual_optimization_is_refused(tmp_path, callbacks):
    with pytest.raises(UnsupportedError, match=r"needs automatic optimization, but Manual"):
        fit(tmp_path, callbacks(), Manual())


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_lightnings_sharding_strategies_are_refused_by_name(tmp_path, callbacks, name, monkeypatch):
    """They need a GPU or packages to be made, so an uninitialised one stands in; nothing of it is used but the type."""
    trainer = quiet_trainer(tmp_path, callbacks=callbacks())
    strategy = object.__new__(getattr(pl.strategies, name))
    monkeypatch.setattr(trainer._accelerator_connector, "strategy", strategy)
    with pytest.raises(UnsupportedError, match=rf'does not support {name}.*strategy="ddp"'):
        trainer.callbacks[0].setup(trainer, HeadOnly(), "fit")
    trainer.callbacks[0].setup(trainer, HeadOnly(), "validate")


@pytest.mark.parametrize("reseed", ["1", "0"])
def test_seeding_at_each_step_can_be_left_out(tmp_path, monkeypatch, reseed):
    monkeypatch.setenv("LIGHTNING_FINETUNE_RESEED", reseed)
    draws = []

    class Draw(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            draws.append(torch.rand(1).item())

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            torch.manual_seed(7)

    quiet_trainer(tmp_path, max_epochs=1, callbacks=[OneCycle(0.1), Draw()]).fit(ForeignNet(), loader(16, 4))
    assert len(set(draws[1:])) == (1 if reseed == "0" else 3)
