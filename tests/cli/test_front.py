"""What the command answers by itself, and what it hands on."""

import sys
import warnings

import pytest

from lightning_finetune.cli import front


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train", "'train' is not a command. Did you mean 'fit'?"),
        ("fitt", "Did you mean 'fit'?"),
        ("find_lr", "Did you mean 'lr-find'?"),
        ("fit --epochs 3", "fit has no option --epochs. Did you mean --fine_tune.epochs?"),
        ("fit --lr=3", "Did you mean --fine_tune.lr?"),
        ("fit --data.sise 32", "fit has no option --data.sise. Did you mean --data.size?"),
        ("fit --batchsize 32", "Did you mean --data.batch_size?"),
        ("fit --fine_tune.head_epoks=1", "Did you mean --fine_tune.head_epochs?"),
        ("predict --images a --ckpt b", "predict has no option --ckpt. Did you mean --ckpt_path?"),
        ("lr_find --unfreeze", "lr-find has no option --unfreeze"),
        ("fit --data.root=nowhere", "nowhere: expected a folder of images, but there is none."),
        ("fit --data.root nowhere", "nowhere: expected a folder of images, but there is none."),
    ],
)
def test_what_is_wrong_is_said_with_what_was_meant(words: str, said: str) -> None:
    assert said in (front.error_of(words.split()) or "")


@pytest.mark.parametrize(
    "words",
    [
        "--config run.yaml fit",
        "fit --config run.yaml --data.csv labels.csv --data.root elsewhere",
        "fit --data mine.Data --data.whatever 3",
        "fit --model.class_path mine.Model --model.width 3",
        "fit --trainer.max_epochs 3 --trainer.callbacks+=WatchModel --trainer.callbacks.freq 3",
        "fit --data.root . --model.optimizer torch.optim.SGD --model.optimizer.momentum 0.9",
        "fit --data.root . --data.init_args.size 32 --fine_tune.phases+ {epochs:1} --model.help ImageClassifier",
        "fit --fine_tune recipe.yaml --print_config",
        "predict --model mine.Model --data mine.Data",
    ],
)
def test_what_the_real_parser_knows_is_handed_on(words: str) -> None:
    assert front.error_of(words.split()) is None


def test_words_become_what_the_parser_takes() -> None:
    typed = ["lr-find", "FOLDER", "--unfrozen", "--data.size", "32"]
    assert list(front.as_parsed(typed)) == ["lr_find", "--data.root=FOLDER", "--unfrozen=true", "--data.size", "32"]
    assert list(front.as_parsed(["lr-find", "--unfrozen", "false"])) == ["lr_find", "--unfrozen", "false"]
    assert list(front.as_parsed(["diagnose", "metrics.csv"])) == ["diagnose", "metrics.csv"]
    assert list(front.as_parsed(["fit", "--help-all"])) == ["fit", "--help"]


def test_help_is_asked_for_in_any_place() -> None:
    assert front.help_of([]) == front.help_of(["--help"]) == front.OVERVIEW
    assert front.help_of(["lr-find", "FOLDER", "-h"]) == front.COMMANDS["lr_find"]
    assert front.help_of(["fit", "FOLDER"]) is None
    assert front.help_of(["fit", "--help-all"]) is None


def test_pillows_word_on_large_images_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-finetune", "--version"])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        front.main()
        for words in ("Image size (100000000 pixels) exceeds limit of 89478485 pixels, could be …", "another"):
            warnings.warn(words, stacklevel=1)
    assert [str(one.message) for one in heard] == ["another"]
