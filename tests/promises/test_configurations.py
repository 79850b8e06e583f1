"""Damaged configurations: each is taken, or refused in words that name what is wrong; nothing in them is executed."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_finetune.cli import command_line
from lightning_finetune.errors import FinetuneError

pytestmark = pytest.mark.slow
VALID = """
seed_everything: 1
model:
  class_path: ImageClassifier
  init_args: {model: test_resnet, weights: false, label_smoothing: 0.1}
data:
  class_path: lightning_finetune.ImageData.from_folder
  init_args: {root: FOLDER, size: 64, batch_size: 8, augment: none}
fine_tune:
  phases:
    - {epochs: 1, train: head, lr: 3.0e-3, size: 64}
    - {epochs: 2, train: all, lr: [1.0e-5, 3.0e-4], size: 96}
trainer: {accelerator: cpu, log_every_n_steps: 5}
"""
JUNK: list[Any] = [None, "", "x", -1, 0, 1e309, float("nan"), [], {}, [[[]]], "\u202e\0", "!!", "${x}", True, 10**30]
JUNK += [{"class_path": "os.system"}, {"class_path": "builtins.exec", "init_args": {"x": 1}}, ["find", "find", "find"]]


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


def damaged(draw: random.Random) -> Any:
    """One value replaced, removed, misspelled or moved."""
    config = yaml.safe_load(VALID)
    path = draw.choice([path for path in places(config) if path])
    node = config
    for key in path[:-1]:
        node = node[key]
    way = draw.choice(["replace", "replace", "remove", "misspell"])
    if way == "replace" or not isinstance(node, dict):
        node[path[-1]] = draw.choice(JUNK)
    elif way == "remove":
        del node[path[-1]]
    else:
        node[f"{path[-1]}x"] = node.pop(path[-1])
    return config


@pytest.mark.parametrize("block", range(6))
def test_damaged_values(here: Path, capsys, block: int):
    refused = 0
    for number in range(50 * block, 50 * (block + 1)):
        config = damaged(random.Random(number))
        Path("config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
        refused += is_refused(["fit", "--config", "config.yaml", "--print_config"], capsys, config)
    assert refused > 10
    assert [path.name for path in here.iterdir()] == ["config.yaml"], "nothing is written"


def is_refused(words: list[str], capsys, config: Any) -> bool:
    with pytest.raises((SystemExit, FinetuneError)) as end:
        command_line.run(words)
    said = capsys.readouterr().err
    if isinstance(end.value, FinetuneError):
        return True
    assert end.value.code == 0 or len(said.strip()) > 30, config
    assert "Traceback" not in said, config
    return end.value.code != 0


@pytest.mark.parametrize("number", range(40))
def test_damaged_text(here: Path, capsys, number: int):
    draw = random.Random(number)
    text = list(VALID)
    for _ in range(draw.randrange(1, 12)):
        text[draw.randrange(len(text))] = draw.choice("\t:{}[]!&*%@`'\"\0\nx-#|>,?")
    Path("config.yaml").write_text("".join(text))
    is_refused(["fit", "--config", "config.yaml", "--print_config"], capsys, "".join(text))


@pytest.mark.parametrize(
    "evil",
    [
        "model: !!python/object/apply:os.mkdir [evil]",
        "data: !!python/object/new:os.mkdir [evil]",
        "model: {class_path: os.mkdir, init_args: {path: evil}}",
        "data: {class_path: pathlib.Path.mkdir, init_args: {self: evil}}",
    ],
)
def test_nothing_is_executed(here: Path, capsys, evil: str):
    Path("config.yaml").write_text(evil)
    assert is_refused(["fit", "--config", "config.yaml", "--data.root", str(here)], capsys, evil)
    assert not Path("evil").exists()
