import math
import re

import pytest

from lightning_finetune.show.charts import HEIGHT, WIDTH, Axis, Chart, Line, Shade, around, short


def chart(*points: tuple[float, float], **options) -> Chart:
    return Chart("", Axis(0, 10), Axis(0, 1), [Line("loss", points, **options)])


def places(path: str) -> list[tuple[str, float, float]]:
    return [(kind, float(x), float(y)) for kind, x, y in re.findall(r"([ML])(-?[\d.]+) (-?[\d.]+)", path)]


def test_points_lie_where_the_axes_say_and_up_is_more():
    drawn = chart((0, 0), (5, 1), (10, 0.25))
    assert places(drawn.path(drawn.lines[0])) == [
        ("M", 0, HEIGHT),
        ("L", WIDTH / 2, 0),
        ("L", WIDTH, 0.75 * HEIGHT),
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_line_is_broken_where_a_value_is_not_finite(bad: float):
    drawn = chart((0, 0), (1, 1), (2, bad), (3, 0.5), (4, 0), dots=True)
    assert [kind for kind, _, _ in places(drawn.path(drawn.lines[0]))] == ["M", "L", "M", "L"]
    assert len(drawn.dots()) == 4
    assert "nan" not in drawn.path(drawn.lines[0]) + str(drawn.dots())


def test_a_logarithm_has_no_place_for_zero_and_equal_factors_are_equal_distances():
    axis = Axis(1e-4, 1, log=True)
    assert [axis.at(value) for value in (1e-4, 1e-2, 1)] == pytest.approx([0, 0.5, 1])
    assert math.isnan(axis.at(0.0))
    assert math.isnan(axis.at(-1.0))


def test_points_within_a_level_stretch_are_left_out_and_nothing_else():
    level = chart(*((step, 0.5) for step in range(11)))
    assert [x for _, x, _ in places(level.path(level.lines[0]))] == [0, WIDTH]
    spike = chart(*((step, 0.9 if step == 5 else 0.5) for step in range(11)))
    assert [x / WIDTH * 10 for _, x, _ in places(spike.path(spike.lines[0]))] == [0, 4, 5, 6, 10]


def test_a_point_alone_is_seen():
    assert chart((5, 0.5)).path(Line("", [(5, 0.5)])) == "M500.0 150.0h0"


def test_dots_say_their_values_and_stay_in_the_box():
    drawn = chart((2, 0.25), (3, 7.0), dots=True)
    (dot,) = drawn.dots()
    assert (dot.left, dot.top, dot.says) == (20, 75, "loss 0.25 at optimizer step 2")


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 40, whole=True), ["0", "10", "20", "30", "40"]),
        (Axis(0, 2, whole=True), ["0", "1", "2"]),
        (Axis(1e-7, 10, log=True), ["1e-7", "1e-5", "1e-3", "0.1", "10"]),
        (Axis(0.4, 3, log=True), ["0.5", "1", "2"]),
    ],
)
def test_round_numbers_mark_an_axis(axis: Axis, labels: list[str]):
    ticks = axis.ticks()
    assert [tick.label for tick in ticks] == labels
    assert all(0 <= tick.place <= 100 for tick in ticks)


def test_shades_are_cut_at_the_ends_of_the_axis():
    drawn = Chart("", Axis(0, 10), Axis(0, 1), [], [Shade(2, 5, "1"), Shade(5, 20, "2")])
    assert [(left, width, shade.name) for left, width, shade in drawn.spans] == [(20, 30, "1"), (50, 50, "2")]


def test_an_axis_holds_all_that_is_finite_and_is_logarithmic_where_values_lie_far_apart():
    assert (around([1.0, math.nan, 3.0, math.inf]).low, around([1.0, 3.0]).high) == pytest.approx((0.84, 3.16))
    assert around([0.1, 0.2, 3e3]).log
    assert not around([-1.0, 0.0, 3e3]).log
    assert around([2.0]).low < 2.0 < around([2.0]).high
    assert around([math.nan]).low < around([math.nan]).high


def test_numbers_are_short():
    assert [short(value) for value in (0.123456, 3e-5, 1234.5, 0.0, 2e11)] == ["0.1235", "3e-5", "1234", "0", "2e11"]
