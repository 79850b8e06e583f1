"""The page as a browser reads it, against what the run was."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from lightning_finetune.engine.diagnosis import Finding
from lightning_finetune.engine.history import History
from lightning_finetune.engine.range_test import Curve, choose, rates_between, record_curve, suggest
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.show.report import Example, Gallery, Outcome, RangeTest, render
from tests.show.report.reading import Page
from tests.show.report.runs import curve, history, report

ATTACK = "<script>alert('x')</script> & \"bees\""


def page(**changes) -> Page:
    return Page(render(report(**changes)))


def photo(number: int, **changes) -> Example:
    image = np.full((40, 60, 3), 20 * number, dtype=np.uint8)
    return Example(Shown(image, **{"truth": "ants", "prediction": "bees 91%", "wrong": True, **changes}))


def test_numbers_are_those_of_the_history():
    found = page()
    run = history()
    assert found.rows("losses")["val_loss"] == ["0.075", "0.075", "epoch 4, phase 2, step 40"]
    says = [title for title in found.titles if title.startswith(("val_loss", "val_error_rate"))]
    points = [(name, step, value) for name, column in run.measured.items() for step, value in column]
    assert says == [f"{name} {value:.4g} at optimizer step {step}" for name, step, value in points]


def test_the_best_value_is_the_lowest_error_and_the_highest_accuracy():
    run = history()
    run.measured = {
        "val_accuracy": [(10, 0.7), (20, 0.9), (30, 0.8)],
        "val_loss": [(10, 2.0), (20, 1.0), (30, math.nan)],
    }
    found = page(history=run)
    assert found.rows("losses")["val_accuracy"] == ["0.8", "0.9", "epoch 2, phase 1, step 20"]
    assert found.rows("losses")["val_loss"] == ["nan", "1", "epoch 2, phase 1, step 20"]
    assert found.says("best val_accuracy 0.9 epoch 2, phase 1, step 20", "")


def test_metrics_of_single_classes_are_in_the_table_alone():
    run = history()
    run.measured |= {f"val_iou_{name}": [(40, 0.5)] for name in ("sky", "road")} | {"val_miou": [(40, 0.6)]}
    found = page(history=run, classes=["sky", "road"])
    assert [title.split()[0] for title in found.titles if " at optimizer step 40" in title] == [
        "val_loss",
        "val_error_rate",
        "val_miou",
    ]
    assert found.rows("losses")["val_iou_road"] == ["0.5", "0.5", "epoch 4, phase 2, step 40"]
    assert found.says("2 more, of single classes", "losses")


def test_a_line_for_every_group_and_its_plan():
    found = page()
    rates, momentum, sizes = found.paths["plan"][:6], found.paths["plan"][6:8], found.paths["plan"][8:]
    assert rates[:3] == rates[3:], "what happened is what was planned"
    assert momentum[0] == momentum[1]
    assert len(sizes) == 2
    assert len(found.paths["losses"]) == 4


def test_a_deviation_is_another_line_and_a_marked_cell():
    run = history()
    run.rates["head"][25] = 5.0
    run.momentum[3] = 0.1
    found = page(history=run)
    rates, momentum = found.paths["plan"][:6], found.paths["plan"][6:8]
    assert [actual == planned for actual, planned in zip(rates[:3], rates[3:], strict=True)] == [True, True, False]
    assert momentum[0] != momentum[1]
    html = render(report(history=run))
    assert re.findall(r'<td class="differs">(.*?)</td>', html) == ["0.1 to 0.95", "1.0e-4 to 5.0"]


def test_losses_that_are_not_finite_break_nothing_and_are_told():
    found = page(history=history(losses={5: math.nan, 6: math.inf, 39: -math.inf}))
    assert found.says("Not finite, and so not drawn: training loss at 3 steps, first at 5.", "losses")
    assert not any(word in path for path in found.paths["losses"] for word in ("nan", "inf"))
    assert [path.count("M") for path in found.paths["losses"][:2]] == [2, 2], "broken there"
    gone = page(history=history(losses=dict.fromkeys(range(40), math.nan)))
    assert gone.says("training loss at 40 steps, first at 0", "losses")


def test_nothing_that_is_named_becomes_markup():
    example = photo(1, truth=ATTACK, prediction=ATTACK)
    run = history()
    run.rates = {ATTACK: run.rates["head"]}
    run.trained = {ATTACK: run.trained["head"]}
    run.measured[f"val_{ATTACK}"] = [(10, 1.0)]
    found = page(
        title=ATTACK,
        outcome=Outcome("failed", ATTACK, ATTACK),
        history=run,
        subject=[ATTACK],
        classes=[ATTACK],
        findings={0: [Finding(ATTACK, ATTACK, ATTACK)]},
        range_tests=[RangeTest(ATTACK, curve(), [1e-3], ATTACK, 0)],
        predictions=Gallery([example], [ATTACK], ATTACK),
        top_losses=Gallery([Example(example.shown, 1.0, ATTACK)], [ATTACK], ATTACK),
        environment={ATTACK: ATTACK},
        command=ATTACK,
        resume=(ATTACK, ATTACK),
        configuration=ATTACK,
    )
    assert "script" not in found.tags
    for section in (
        "",
        "diagnosis",
        "losses",
        "plan",
        "range-tests",
        "predictions",
        "top-losses",
        "environment",
        "command",
    ):
        assert ATTACK in found.texts[section], section
    assert found.images["predictions"][0]["alt"] == f"Photo of {ATTACK}, predicted {ATTACK}"


def test_it_loads_nothing():
    found = page(predictions=Gallery([photo(1)]), range_tests=[RangeTest("", curve())])
    assert all(source.startswith(("#", "data:image/jpeg;base64,")) for source in found.sources)
    assert not re.search(r"url\(|@import|https?:", render(report()))
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert {source for source in found.sources if source[0] == "#"} == {f"#{name}" for name in found.texts if name}


def test_photos_are_small_and_say_what_they_show():
    big = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    found = page(predictions=Gallery([photo(7), Example(Shown(big, "ants", "ants 80%", False))], (), "Sample."))
    [first, second] = found.images["predictions"]
    with Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2]))) as small:
        assert (small.size, abs(np.asarray(small).mean() - 140) < 2) == ((60, 40), True)
    with Image.open(io.BytesIO(base64.b64decode(second["src"].partition(",")[2]))) as shrunk:
        assert shrunk.size == (224, 149)
    assert found.says("✗ bees 91% is ants", "predictions")
    assert found.says("✓ ants 80%", "predictions")
    assert "is ants" not in found.texts["predictions"].partition("80%")[2]


def test_masks_lie_side_by_side_with_a_legend_of_what_occurs():
    truth, said = np.zeros((40, 60), dtype=np.int64), np.full((40, 60), 2, dtype=np.int64)
    truth[:, 30:] = -1
    found = page(predictions=Gallery([photo(1, wrong=None, masks=(truth, said))], ["sky", "road", "tree"]))
    with Image.open(io.BytesIO(base64.b64decode(found.images["predictions"][0]["src"].partition(",")[2]))) as both:
        pixels = np.asarray(both).astype(int)
    assert pixels.shape == (40, 120, 3)
    assert abs(pixels[:, 32:58] - 20).max() < 12, "what counts for nothing is left bare"
    assert found.says("sky tree", "predictions")


def test_sections_that_have_nothing_say_why():
    found = page(history=History(), plan=None, planned=None, bands=(), made=0)
    assert found.says("No loss of a training step was recorded.", "losses")
    assert found.says("Nothing was measured: no validation has ended", "losses")
    assert found.says("This run follows no phases", "plan")
    assert found.says("No range test was made.", "range-tests")
    assert found.says("No configuration was saved", "command")
    assert sum(map(len, found.paths.values())) == 0


def test_range_tests_show_what_was_suggested_and_chosen():
    found = choose(("find", 1e-2), curve(), unfrozen=True)
    assert isinstance(found.lr, tuple)
    told = page(range_tests=[RangeTest("Before phase 2", found.curve, found.lr, found.reason, 1)])
    assert told.rows("range-tests")["elbow"] == [f"{found.lr[0]:.1e}".replace("e-0", "e-"), "yes"]
    assert told.says(f"2: all layers rate found: {found.reason}", "plan")
    assert any(title.startswith("elbow ") and f"{10 * found.lr[0]:.4g}" in title for title in told.titles)
    assert set(told.rows("range-tests")) == {"suggestion", *found.curve.suggestions}


def test_a_suggestion_that_is_not_to_be_trusted_says_why():
    rates = rates_between(1e-7, 10, 100)
    flat = record_curve(lambda lr: 1.0, rates)
    told = page(range_tests=[RangeTest("", Curve(flat.lrs, flat.losses, flat.smoothed, False, suggest(flat, 100)))])
    assert told.rows("range-tests")["steep"][1] == "the curve nowhere falls"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_range_test_that_ended_with_a_loss_that_is_not_finite(bad: float):
    found = record_curve(lambda lr: bad if lr > 1e-2 else 1.0 - lr, rates_between(1e-7, 10, 100))
    told = page(range_tests=[RangeTest("", Curve(found.lrs, found.losses, found.smoothed, True, suggest(found, 100)))])
    assert len(told.paths["range-tests"]) >= 2
    assert not any("nan" in path or "inf" in path for path in told.paths["range-tests"])


def test_findings_are_told_by_phase():
    fault = Finding("learning rate too high", "It rose.", "Divide it.")
    told = page(findings={1: [], 2: [fault], 0: []})
    assert told.says("Phase 2 learning rate too high It rose. Divide it.", "diagnosis")
    assert "Phase 1" not in told.texts["diagnosis"]
    assert page(findings={1: [], 0: []}).says("nothing to worry about", "diagnosis")


def test_the_page_can_be_read_without_seeing_it():
    html = render(report(predictions=Gallery([photo(1)])))
    found = Page(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert found.tags.count("h1") == found.tags.count("main") == 1
    assert all(image["alt"] for images in found.images.values() for image in images)
    assert html.count("<svg") == html.count('role="img" aria-label="') - 1  # the strips are no SVG
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", html))


def test_a_long_run_of_many_groups_stays_small():
    names = [f"layer{number}" for number in range(12)]
    run = history()
    noise = np.random.default_rng(0)
    run.steps = list(range(0, 80000, 40))
    run.losses = noise.normal(1, 0.1, 2000).tolist()
    run.rates = {name: np.exp(noise.normal(-6, 1, 2000)).tolist() for name in names}
    run.trained = {name: [1.0] * 2000 for name in names}
    run.momentum, run.sizes = noise.uniform(0.85, 0.95, 2000).tolist(), [(224, 224)] * 2000
    photos = noise.integers(0, 255, (25, 224, 224, 3), dtype=np.uint8)
    gallery = Gallery([Example(Shown(image, "a", "b", True)) for image in photos])
    assert len(render(report(history=run, planned=run, predictions=gallery))) < 3e6, "of noise, the worst case"
