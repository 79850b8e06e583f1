"""The page in a real browser, on a phone and on a desk, by day and by night."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from lightning_finetune.engine.diagnosis import Finding
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.show.report import Example, Gallery, Outcome, RangeTest, render
from tests.show.report.runs import curve, report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")]

FRAME = """<!doctype html><body><script>
const frame = document.createElement("iframe");
frame.width = WIDTH;
frame.height = 900;
frame.style.border = 0;
frame.srcdoc = PAGE;
frame.onload = () => {
  const page = frame.contentDocument;
  const style = element => frame.contentWindow.getComputedStyle(element);
  const first = name => page.querySelector(name);
  const sticksOut = one => !one.closest(".scroll") && one.getBoundingClientRect().right > WIDTH + 1;
  document.body.textContent = "MEASURED" + JSON.stringify({
    width: page.documentElement.scrollWidth,
    outside: [...page.querySelectorAll("body *")].filter(sticksOut).map(one => one.outerHTML.slice(0, 80)),
    paper: style(first("body")).backgroundColor,
    ink: style(first("body")).color,
    line: style(first("path.c1")).stroke,
    sizes: [...page.querySelectorAll(".x span, .y span, td, .said")].map(one => parseFloat(style(one).fontSize)),
    box: first(".box svg").getBoundingClientRect().width,
    broken: [...page.images].filter(image => image.naturalWidth === 0).length,
  }) + "END";
};
document.body.append(frame);
</script>"""


@pytest.fixture(scope="module")
def page() -> str:
    """Of everything that could be too wide."""
    long = "a_very_long_name_without_any_blank_" * 4
    image = np.zeros((50, 80, 3), dtype=np.uint8)
    photos = [Example(Shown(image, long, long, True), 1.0, f"{long}.jpg")] * 3
    return render(
        report(
            title=long,
            outcome=Outcome("failed", "Failed.", f"RuntimeError: {long}"),
            classes=[long],
            findings={0: [Finding("loss spike", long, "Look.")]},
            range_tests=[RangeTest("Before phase 1", curve(), [1e-3], long, 0)],
            predictions=Gallery(photos, (), "Sample."),
            environment={"packages": long},
            command=long,
            configuration=long,
        )
    )


def measured(page: str, folder: Path, width: int, dark: bool) -> dict:
    shown = FRAME.replace("WIDTH", str(width)).replace("PAGE", json.dumps(page).replace("</", "<\\/"))
    (folder / "frame.html").write_text(shown)
    night = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", *night]
    address = (folder / "frame.html").as_uri()
    done = subprocess.run([*words, address], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(unescape(re.search(r"MEASURED(.*)END", done.stdout, re.DOTALL)[1]))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_its_width_and_follows_the_time_of_day(page: str, tmp_path: Path, width: int, dark: bool):
    found = measured(page, tmp_path, width, dark)
    assert found["width"] <= width, found["outside"]
    assert found["outside"] == []
    assert found["broken"] == 0
    assert min(found["sizes"]) >= 11, "nothing is shrunk until it cannot be read"
    assert found["box"] > 0.6 * min(width, 1000)
    paper, ink, line = (brightness(found[name]) for name in ("paper", "ink", "line"))
    assert (paper < 60, ink > 200) == (dark, dark)
    assert abs(paper - line) > 60, "lines stand out"


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
