"""Properties of any phases, groups and configurations, on examples that hypothesis looks for."""

from dataclasses import asdict

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import nn

from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan

RATES = st.floats(1e-8, 1.0)
ENDS = st.fixed_dictionaries(
    {
        "until": st.just("val_loss"),
        "patience": st.integers(1, 5),
        "min_delta": st.floats(0, 1),
        "mode": st.sampled_from(["min", "max"]),
    }
)
PHASES = st.builds(
    lambda end, **others: Phase(**end, **others),
    end=st.one_of(st.just({}), ENDS),
    epochs=st.integers(1, 5),
    train=st.sampled_from(["head", "all", 1, 2, 3]),
    lr=st.one_of(
        RATES, st.tuples(RATES, RATES).map(lambda pair: tuple(sorted(pair))), RATES.map(lambda lr: (None, lr))
    ),
    size=st.one_of(st.none(), st.integers(64, 512)),
    schedule=st.sampled_from(["one_cycle", "flat_cos", "constant"]),
    pct_start=st.one_of(st.none(), st.floats(0, 1)),
    div=st.floats(1, 100),
    div_final=st.floats(1, 1e6),
    weight_decay=st.one_of(st.none(), st.floats(0, 1)),
)


@settings(max_examples=150, deadline=None)
@given(phases=st.lists(PHASES, min_size=1, max_size=4), steps=st.integers(1, 9), train_norm=st.booleans())
def test_a_plan_says_of_every_step_what_its_phase_says(phases: list[Phase], steps: int, train_norm: bool) -> None:
    plan = make_plan(phases, steps, num_groups=3, train_norm=train_norm)
    assert len(plan) == steps * sum(phase.epochs for phase in phases)
    for step, state in enumerate(plan):
        phase = phases[state.phase]
        first = plan.start(state.phase)
        assert first <= step < first + steps * phase.epochs
        assert state == plan.at(step // steps, step), "progress alone decides"
        assert state.size == phase.size
        peaks = plan.rates(state.phase)
        assert all(0 <= lr <= peak * (1 + 1e-9) for lr, peak in zip(state.lrs, peaks, strict=True))
        frozen = 3 - state.trained
        assert all((lr > 0) == (place >= frozen or train_norm) for place, lr in enumerate(state.lrs))
        assert list(state.lrs[frozen:]) == sorted(state.lrs[frozen:]), "rates rise towards the head"
        assert (state.momentum is None) == (phase.schedule != "one_cycle")


LEAVES = st.sampled_from(["linear", "norm", "activation"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=12)


def build(tree: object) -> nn.Module:
    """A nested network of the shape of ``tree``."""
    if isinstance(tree, list):
        return nn.Sequential(*map(build, tree))
    return {"linear": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3), "activation": nn.ReLU()}[str(tree)]


@settings(max_examples=150, deadline=None)
@given(trees=st.lists(TREES, min_size=1, max_size=5))
def test_groups_hold_every_parameter_once(trees: list) -> None:
    network = nn.Sequential(*map(build, trees), nn.Linear(3, 2))
    groups = layer_groups(network)
    held = [id(param) for group in groups for param in group.params]
    assert sorted(held) == sorted(id(param) for param in network.parameters())
    assert len({group.name for group in groups}) == len(groups)
    assert any(param is network[-1].bias for param in groups[-1].params), "the head is last"


@settings(max_examples=25, deadline=None)
@given(phases=st.lists(PHASES, min_size=1, max_size=3))
def test_phases_come_back_from_a_configuration_as_they_went(phases: list[Phase]) -> None:
    written = yaml.safe_dump([_plain(asdict(phase)) for phase in phases])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FineTune, "fine_tune")
    config = parser.parse_object({"fine_tune": {"phases": yaml.safe_load(written)}})
    again = parser.parse_string(parser.dump(config))
    assert parser.instantiate_classes(again).fine_tune.given == phases


def _plain(values: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
