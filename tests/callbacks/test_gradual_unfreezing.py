import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import LambdaLR

from lightning_finetune.callbacks import GradualUnfreezing, OneCycle
from lightning_finetune.errors import LayerGroupError, PhaseError
from tests.foreign import ForeignNet, Probe, Scheduled, Untrained, Worse, probed


def parts(probe: Probe) -> list[list[str]]:
    """The children that train, for each epoch of six steps, after checking that it is one answer an epoch."""
    epochs = [probe.trainable[start : start + 6] for start in range(0, len(probe.trainable), 6)]
    assert all(step == epoch[0] for epoch in epochs for step in epoch)
    return [sorted({name.split(".")[0] for name in epoch[0]}) for epoch in epochs]


def test_groups_thaw_from_the_head_at_their_epochs(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 1: 2, 3: "all"}), max_epochs=4)
    every = ["body", "head", "neck", "stem"]
    assert parts(probe) == [["head"], ["head", "neck"], ["head", "neck"], every]


def test_what_thawed_may_freeze_again(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "all", 1: "head"}), max_epochs=2)
    assert parts(probe) == [["body", "head", "neck", "stem"], ["head"]]


def test_the_optimizers_rate_spreads_over_what_trains(tmp_path):
    """Howard & Ruder: the head keeps the optimizer's rate, the earliest trained group has a tenth of it."""
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 1: 2, 2: "all"}), max_epochs=3)
    assert probe.lrs[0] == pytest.approx([0, 0, 0, 1e-2])
    assert probe.lrs[6] == pytest.approx([0, 0, 1e-3, 1e-2])
    assert probe.lrs[12] == pytest.approx([1e-3 * 10 ** (i / 3) for i in range(4)])
    assert set(probe.momentum) == {0.9}


def test_the_ratio_is_the_users(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "all"}, lr_ratio=1000), max_epochs=1)
    assert probe.lrs[0] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])


def test_rates_are_left_alone_on_request(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 1: "all"}, lr_ratio=None), max_epochs=2)
    assert probe.lrs == [[1e-2]] * 12


class OwnRates(ForeignNet):
    def configure_optimizers(self):
        groups = [{"params": self.stem.parameters(), "lr": 1e-4}]
        groups.append({"params": [p for part in (self.body, self.neck, self.head) for p in part.parameters()]})
        return torch.optim.AdamW(groups, lr=1e-3)


def test_rates_that_the_module_gave_its_groups_stay(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 1: "all"}), module=OwnRates(), max_epochs=2)
    assert probe.lrs == [[1e-4, 1e-3]] * 12


def test_a_scheduler_of_the_module_keeps_the_rates(tmp_path):
    module = Scheduled(lambda o: {"scheduler": LambdaLR(o, lambda step: 1 / (1 + step)), "interval": "step"})
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 1: "all"}), module=module, max_epochs=2)
    assert [lrs for [lrs] in probe.lrs] == pytest.approx([1e-2 / (1 + step) for step in range(12)])
    assert parts(probe) == [["head"], ["body", "head", "neck", "stem"]]


@pytest.mark.parametrize("turned", [False, True])
def test_one_cycle_beside_it_sets_the_rates(tmp_path, turned):
    callbacks = [GradualUnfreezing({0: "head", 1: "all"}), OneCycle((1e-5, 1e-2), pct_start=0.5)]
    probe = probed(tmp_path, *callbacks[:: -1 if turned else 1], max_epochs=2)
    assert probe.lrs[6] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert parts(probe)[0] == ["head"]


def test_the_users_patterns_are_the_groups(tmp_path):
    callback = GradualUnfreezing({0: 1, 1: "all"}, groups=["stem|body", "neck|head"])
    probe = probed(tmp_path, callback, max_epochs=2)
    assert parts(probe)[0] == ["head", "neck"]
    assert len(probe.lrs[0]) == 2


def test_patterns_given_to_one_callback_hold_for_the_others(tmp_path):
    unfreezing = GradualUnfreezing({0: 1}, groups=["stem|body", "neck|head"])
    probe = probed(tmp_path, OneCycle((1e-4, 1e-2), pct_start=0.5), unfreezing, max_epochs=1)
    assert probe.lrs[3] == pytest.approx([1e-4, 1e-2])
    with pytest.raises(PhaseError, match="one list of `groups`"):
        probed(tmp_path, OneCycle(1e-2, groups=["stem"]), unfreezing, max_epochs=1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({4: "all"}, "epoch 0"),
        ({}, "epoch 0"),
        ({0: "head", -1: "all"}, "epochs from 0"),
        ({0: "head", "4": "all"}, "epochs from 0"),
        ([("head", 0)], "epochs from 0"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused_when_made(schedule, message):
    with pytest.raises(PhaseError, match=message):
        GradualUnfreezing(schedule)


@pytest.mark.parametrize("value", ["body", 0, -2, 1.5])
def test_what_cannot_train_is_refused(tmp_path, value):
    with pytest.raises(PhaseError, match="`train`"):
        probed(tmp_path, GradualUnfreezing({0: value}), max_epochs=1)


@pytest.mark.parametrize(
    ("callback", "options", "message"),
    [
        (lambda: GradualUnfreezing({0: "head", 3: "all"}), {"max_epochs": 3}, "begins at epoch 4.*max_epochs=3"),
        (lambda: GradualUnfreezing({0: "head", 3: 2, 5: "all"}), {"max_epochs": 4}, "epoch 6"),
        (lambda: GradualUnfreezing({0: "head", 2: "all"}), {"max_steps": 12}, "Phase 2 would never be reached"),
        (lambda: GradualUnfreezing({0: "head", 1: 5}), {"max_epochs": 2}, "5 layer groups, but the model has 4"),
        (lambda: GradualUnfreezing({0: 1}, groups=["nack"]), {"max_epochs": 1}, "'nack'.*Did you mean 'neck"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_before_the_first_batch(tmp_path, callback, options, message):
    with pytest.raises((PhaseError, LayerGroupError), match=message):
        probed(tmp_path, callback(), module=Untrained(), **options)


def test_fast_dev_run_needs_no_care(tmp_path):
    probe = probed(tmp_path, GradualUnfreezing({0: "head", 5: "all"}), fast_dev_run=True)
    assert len(probe.lrs) == 1


# -- early stopping ----------------------------------------------------------------------------------------------------


def test_early_stopping_that_can_end_the_run_before_the_last_phase_says_so(tmp_path):
    stopping = EarlyStopping("worse", patience=2)
    callback = GradualUnfreezing({0: "head", 4: "all"})
    with pytest.warns(UserWarning, match="last phase") as said:
        probe = probed(tmp_path, callback, stopping, module=Worse(), max_epochs=6)
    assert parts(probe) == [["head"]] * 3
    texts = [str(warning.message) for warning in said]
    assert any("patience=2" in text and "epoch 5" in text and "min_epochs=5" in text for text in texts)
    assert any("stopped after epoch 3, in phase 1 of 2" in text for text in texts)


@pytest.mark.parametrize("options", [{"min_epochs": 5}, {"patience": 5}])
def test_early_stopping_that_cannot_is_let_be(tmp_path, options, recwarn):
    stopping = EarlyStopping("worse", patience=options.pop("patience", 2))
    callback = GradualUnfreezing({0: "head", 4: "all"})
    probe = probed(tmp_path, callback, stopping, module=Worse(), max_epochs=9, **options)
    assert 5 <= len(parts(probe)) < 9  # it did stop, in the last phase
    assert not [warning for warning in recwarn if "last phase" in str(warning.message)]
    assert not [warning for warning in recwarn if "stopped after" in str(warning.message)]
