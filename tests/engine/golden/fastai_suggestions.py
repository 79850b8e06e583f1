"""Writes ``range_test.json``: what fastai itself suggests on given curves. Needs fastai: ``pip install fastai``."""

import json
from pathlib import Path

import numpy as np
import torch
from fastai.callback.schedule import minimum, slide, steep, valley

HERE = Path(__file__).parent
LRS = np.geomspace(1e-6, 3.0, 85)


def curves() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    x = np.linspace(0, 1, 85)
    bowl = 2.0 - 1.2 / (1 + np.exp(-20 * (x - 0.5))) + 6 * np.clip(x - 0.85, 0, None)
    return {
        "bowl": bowl,
        "noisy bowl": bowl + 0.05 * draws.standard_normal(85),
        "noisier bowl": bowl + 0.3 * draws.standard_normal(85),
        "flat then up": 0.5 + 40 * np.clip(x - 0.7, 0, None) ** 2 + 0.01 * draws.standard_normal(85),
        "falling": 2 - x + 0.01 * draws.standard_normal(85),
        "noise": draws.standard_normal(85) + 3,
        "random walk": 3 + np.cumsum(0.1 * draws.standard_normal(85)),
    }


def main() -> None:
    answers = []
    for name, losses in curves().items():
        lrs, values = torch.tensor(LRS), torch.tensor(losses)
        found = {}
        for function in (steep, valley, slide, minimum):
            value, _ = function(lrs, values, len(lrs))
            found[function.__name__] = None if value is None else float(value)
        answers.append({"name": name, "lrs": LRS.tolist(), "losses": losses.tolist(), "fastai": found})
    (HERE / "range_test.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
