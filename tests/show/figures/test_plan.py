from lightning_finetune.engine.history import LIMIT
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.figures.plan import draw_plan

PHASES = [Phase(1, "head", 1e-2), Phase(2, "all", (1e-5, 1e-3))]


def test_rates_of_each_group_and_momentum_step_by_step() -> None:
    plan = make_plan(PHASES, 10, num_groups=3)
    rates, moms = draw_plan(plan, ["stem", "body", "head"], [Band(0, 10, "1"), Band(10, 30, "2")]).axes
    assert [line.get_label() for line in rates.lines][0::2] == ["stem", "head"]
    assert rates.lines[2].get_ydata().tolist() == [state.lrs[-1] for state in plan]
    assert list(moms.lines[0].get_ydata()) == [state.momentum for state in plan]


def test_a_long_run_is_sampled() -> None:
    plan = make_plan(PHASES, 5000, num_groups=2)
    assert LIMIT / 2 < len(draw_plan(plan, ["body", "head"], []).axes[0].lines[0].get_xdata()) <= LIMIT
