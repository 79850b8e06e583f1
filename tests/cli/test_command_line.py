"""The command as a user types it: in processes of its own where that matters, else in this one."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lightning_finetune import load
from lightning_finetune.cli import command_line
from lightning_finetune.cli.loggers import RunLogger
from lightning_finetune.engine.diagnosis import read_csv
from lightning_finetune.errors import FinetuneError
from tests import forking
from tests.cli.launching import PROGRAM, QUIET, SHORT, SMALL, rows
from tests.show.report.reading import Page


def command(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    env = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run([PROGRAM, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def forked(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, without the seconds that imports take."""
    return forking.run(PROGRAM, *args, cwd=cwd)


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run in a folder that was empty, and what it said."""
    folder = tmp_path_factory.mktemp("empty")
    result = command("fit", "--data.root", photos, *SMALL, *SHORT, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "lightning_logs/version_0", result.stdout + result.stderr


def test_a_run_leaves_checkpoints_pictures_measures_and_its_configuration(done: tuple[Path, str]) -> None:
    run, _ = done
    for name in ("run.png", "predictions.png"):
        with Image.open(run / name) as picture:
            picture.load()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [row["epoch"] for row in rows(run / "metrics.csv") if row["val_loss"]] == ["0", "1"]
    assert len(read_csv(run / "metrics.csv").losses) >= 2, "a run of a few steps can be diagnosed"
    assert yaml.safe_load((run / "config.yaml").read_text())["fine_tune"]["head_epochs"] == 1
    assert [path.name for path in run.parents[1].iterdir()] == ["lightning_logs"], "nothing lies about"


@pytest.mark.parametrize("chosen", ["--model.class_path", "--model", "--config"])
def test_a_module_of_somebody_else_has_its_own_defaults(here: Path, capsys, chosen: str) -> None:
    """Not those of our classifier that have the same names: another rate, weights that it did not ask for."""
    name = "tests.foreign.ForeignNet"
    Path("foreign.yaml").write_text(yaml.safe_dump({"model": {"class_path": name}}))
    words = [chosen, "foreign.yaml" if chosen == "--config" else name]
    with pytest.raises(SystemExit) as stopped:
        command_line.run(["fit", *words, "--model.norm", "false", "--data.root", ".", "--print_config"])
    assert stopped.value.code == 0
    given = yaml.safe_load(capsys.readouterr().out)["model"]
    assert given == {"class_path": name, "init_args": {"optimizer": "adamw", "lr": 0.01, "norm": False, "dropout": 0.2}}


def test_a_run_leaves_a_report_with_its_command_and_its_configuration(done: tuple[Path, str], photos: Path) -> None:
    run, said = done
    page = Page((run / "report.html").read_text())
    assert "The report of this run is lightning_logs/version_0/report.html" in said
    assert page.says(f"lightning-finetune fit \\ --data.root {photos} \\ --data.size 32", "command")
    assert (run / "config.yaml").read_text().strip() in page.texts["command"]
    losses = [float(row["val_loss"]) for row in rows(run / "metrics.csv") if row["val_loss"]]
    assert page.rows("losses")["val_loss"][:2] == [f"{losses[-1]:.4g}", f"{min(losses):.4g}"]
    assert page.says("3 classes: blue, green, red", "")
    assert len(page.images["predictions"]) == 12
    assert len(page.images["top-losses"]) == 9


def test_it_says_what_it_will_do_and_what_came_out(done: tuple[Path, str]) -> None:
    _, said = done
    assert said.count("Data: 24 train, 12 valid") == 1
    assert "  green       8 train       4 valid" in said
    for words in (
        "Plan of the run",
        "head (1 of 9)",
        "FineTune: the head starts where it fits",
        "1.0e-04 to 5.0e-04",
        "Phases and their results",
        "To predict other images:\n  lightning-finetune predict --ckpt_path lightning_logs/version_0/",
        "/version_0/checkpoints/best.ckpt --images FOLDER",
        "val_error_rate",
    ):
        assert words in said
    assert "lightning_logs/version_0" in said
    for noise in ("Traceback", "max_epochs", "\u2501", "litlogger", "deprecated", "TPU", "Seed set"):
        assert noise not in said


def test_what_cannot_be_summed_up_ends_no_training(photos: Path, here: Path, capfd) -> None:
    """A broken test image is none of those that train and validate."""
    shutil.copytree(photos, here / "photos")
    (here / "photos/test/red").mkdir(parents=True)
    (here / "photos/test/red/broken.jpg").write_bytes(b"no image")
    words = [
        "fit",
        "--data.root",
        "photos",
        *SMALL,
        *QUIET,
        "--fine_tune.head_epochs",
        "0",
        "--trainer.logger",
        "false",
    ]
    with pytest.warns(UserWarning, match=r"The data cannot be summed up: (.|\n)*broken\.jpg"):
        command_line.run([*words, "--fine_tune.full_epochs", "1", "--report.enabled", "false"])
    assert Path("checkpoints/last.ckpt").is_file()


def test_a_damaged_or_missing_checkpoint_is_named_in_one_line(here: Path, photos: Path) -> None:
    Path("last.ckpt").write_bytes(b"PK\x03\x04 and no more")
    for path, words in (("last.ckpt", "It may be truncated"), ("gone.ckpt", "there is none")):
        with pytest.raises(FinetuneError, match=words) as caught:
            command_line.run(["fit", "--data.root", str(photos), *SMALL, *QUIET, "--ckpt_path", path])
        assert "\n" not in str(caught.value)


def test_a_checkpoint_knows_the_classes_of_the_data(done: tuple[Path, str], photos: Path) -> None:
    run, _ = done
    said = load(run / "checkpoints/best.ckpt").predict(photos / "valid/red/0.jpg")
    assert set(said.probabilities) == {"red", "green", "blue"}


def test_the_saved_configuration_repeats_the_run(done: tuple[Path, str]) -> None:
    run, _ = done
    result = forked("fit", "--config", run / "config.yaml", "--print_config", cwd=run)
    unsaid = dict.fromkeys(command_line.RESUME)  # left out, as not every subcommand has them
    assert yaml.safe_load(result.stdout) == yaml.safe_load((run / "config.yaml").read_text()) | unsaid


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "nowhere: expected a folder of images"),
        (["--trainer.max_epochs", "5"], "The phases of FineTune last 2 epochs"),
    ],
)
def test_an_error_of_ours_is_its_message_alone(
    here: Path, photos: Path, monkeypatch, args: list[str], message: str
) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET, *args]
    monkeypatch.setattr(sys, "argv", ["lightning-finetune", *words])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert str(caught.value).startswith(f"lightning-finetune: error: {message}")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: root"),
        (["--data.root", ".", "--data.sise", "32"], "'sise' is not accepted. Did you mean 'size'?"),
        (["--data.root", ".", "--fine_tune.head_epoks", "1"], "Did you mean 'fine_tune.head_epochs'?"),
        (
            ["--data.root", ".", "--model.head", "concat"],
            "--model.head: expected 'multi_level', 'linear' or 'concat_pool', got concat.",
        ),
        (["--data.root", ".", "--fine_tune.sizes", "64,96"], 'got 64,96. Write it as --fine_tune.sizes "[64, 128]"'),
        (
            ["--data.root", ".", "--fine_tune.phases", "[{epochs:1}]"],
            "--fine_tune.phases: expected list[Phase], int or",
        ),
        (["--data.root", ".", "--model", "ImageClassifer"], "Did you mean 'ImageClassifier'?"),
    ],
)
def test_a_wrong_word_is_a_short_message_and_status_2(here: Path, capsys, args: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.run(["fit", *args])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in said
    assert len(said.splitlines()) <= 3


def test_a_machine_without_the_device_is_a_message(here: Path, photos: Path, monkeypatch) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, "--trainer.accelerator", "cuda"]
    monkeypatch.setattr(sys, "argv", ["lightning-finetune", *words])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"lightning-finetune: error: .*CUDA"):
        command_line.main()


def test_a_file_with_short_class_names_an_optimizer_and_phases(here: Path, photos: Path) -> None:
    Path("run.yaml").write_text(f"""
model:
  class_path: ImageClassifier
  init_args:
    weights: false
    optimizer: {{class_path: torch.optim.SGD, init_args: {{momentum: 0.9}}}}
data:
  class_path: lightning_finetune.ImageData.from_folder
  init_args: {{root: {photos}, size: 32, batch_size: 8, num_workers: 0, augment: none}}
fine_tune:
  phases: [{{epochs: 1, train: head, lr: 1.0e-2}}, {{epochs: 1, train: all, lr: [1.0e-5, 1.0e-3]}}]
""")
    made = command_line.run(["fit", "--config", "run.yaml", *QUIET, "--trainer.fast_dev_run", "true"])
    assert made.model.num_classes == 3
    groups = made.trainer.optimizers[0].param_groups
    assert {group["name"].partition("/")[0] for group in groups} > {"conv_stem", "head"}
    assert groups[0]["momentum"] != groups[0]["dampening"]


def test_modules_that_know_nothing_of_the_package_keep_their_own_schedule(here: Path) -> None:
    boring = "lightning.pytorch.demos.boring_classes.Boring"
    alone = "[{epochs: 2, train: null, lr: null}]"
    words = ["--model", f"{boring}Model", "--data", f"{boring}DataModule", "--fine_tune.phases", alone]
    words += ["--report.enabled", "false"]
    with pytest.warns(UserWarning, match="LogPredictions shows nothing"):
        made = command_line.run(
            ["fit", *words, *QUIET, "--trainer.limit_train_batches", "2", "--log_predictions.num", "3"]
        )
    assert made.trainer.current_epoch == 2
    assert not list(Path().rglob("report.html"))
    assert [path.name for path in Path("lightning_logs/version_0/checkpoints").iterdir()] == ["last.ckpt"]


def test_ctrl_c_within_an_epoch_leaves_what_continues_to_the_same_bits(here: Path, photos: Path, caplog) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET]
    whole = command_line.run([*words, "--trainer.logger.name", "whole"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with pytest.raises(SystemExit):
        command_line.run(
            [*words, "--trainer.logger.name", "cut", "--trainer.callbacks+=tests.cli.test_command_line.PressCtrlC"]
        )
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on, as the process is to end
    run = "cut/version_0"
    advice = f"lightning-finetune fit --config {run}/config.yaml --ckpt_path {run}/checkpoints/last.ckpt"
    assert advice in caplog.text
    page = Page(Path(f"{run}/report.html").read_text())
    assert page.says("Stopped by hand after 1 of 2 epochs and 5 optimizer steps.", "")
    assert page.says(f"To continue {advice}", "command")
    again = command_line.run([*words, "--trainer.logger.name", "rest", "--ckpt_path", f"{run}/checkpoints/last.ckpt"])
    assert again.trainer.global_step == whole.trainer.global_step
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert (one == other).all()
    assert again.trainer.callback_metrics["val_loss"] == whole.trainer.callback_metrics["val_loss"]


class PressCtrlC(Callback):
    """Presses it while a step within the second epoch is being made."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_trained_model_is_measured_again(done: tuple[Path, str], photos: Path, here: Path) -> None:
    run, _ = done
    losses = [float(row["val_loss"]) for row in rows(run / "metrics.csv") if row["val_loss"]]
    checkpoint = str(run / "checkpoints/best.ckpt")
    made = command_line.run(["validate", "--data.root", str(photos), *SMALL, *QUIET, "--ckpt_path", checkpoint])
    assert float(made.trainer.callback_metrics["val_loss"]) == pytest.approx(min(losses), rel=1e-4)


def test_a_trained_model_is_interpreted_with_the_saved_configuration(done: tuple[Path, str]) -> None:
    version, _ = done
    best = version / "checkpoints" / "best.ckpt"
    result = forked("interpret", "--config", "config.yaml", "--ckpt_path", best, "--out", "why", cwd=version)
    assert result.returncode == 0, result.stderr
    assert "Worst classes" in result.stdout
    assert {row["class"] for row in rows(version / "why/report.csv")} == {"red", "green", "blue"}


def test_a_log_is_diagnosed(tmp_path: Path) -> None:
    losses = "\n".join(f"{step},{2.3 - 0.03 * step}" for step in range(60))
    (tmp_path / "metrics.csv").write_text(f"step,train_loss\n{losses}\n")
    result = forked("diagnose", "metrics.csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("too few epochs: In the last third of the steps")
    missing = forked("diagnose", "nowhere.csv", cwd=tmp_path)
    assert missing.returncode == 1
    assert "nowhere.csv: expected the metrics.csv of a CSVLogger" in missing.stderr


def test_a_model_that_was_never_trained_is_not_measured(here: Path, photos: Path) -> None:
    with pytest.raises(FinetuneError, match="validate needs a trained model"):
        command_line.run(["validate", "--data.root", str(photos), *SMALL, *QUIET])


def test_runs_that_start_at_once_have_directories_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: RunLogger(str(tmp_path)).version, range(8)))
    assert sorted(versions) == list(range(8))


def test_without_a_logger_the_files_lie_in_the_root_directory(here: Path, photos: Path) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET, "--trainer.logger", "false"]
    command_line.run([*words, "--trainer.default_root_dir", "out"])
    pictures = {"run.png", "predictions.png", "confusion.png"}
    tables = {"plan.csv", "phases.csv", "confusion.csv", "diagnosis.csv"}
    assert {path.name for path in Path("out").iterdir()} == {
        "checkpoints",
        "config.yaml",
        "report.html",
    } | pictures | tables


def test_runs_go_where_the_trainer_says_and_latest_leads_to_the_last(here: Path, photos: Path) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, *QUIET, "--fine_tune.epochs", "1"]
    words += ["--trainer.default_root_dir", "out"]
    command_line.run(words)
    made = command_line.run([*words, "--ckpt_path", "out/lightning_logs/latest/checkpoints/last.ckpt"])
    assert [path.name for path in here.iterdir()] == ["out"]
    assert made.config["fit"]["ckpt_path"] == "out/lightning_logs/version_0/checkpoints/last.ckpt"
    assert Path("out/lightning_logs/latest").resolve().name == "version_1"
    assert Path("out/lightning_logs/latest/config.yaml").is_file()
    command_line.run(["plan", *words[1:]])
    assert Path("out/lightning_logs/latest").resolve().name == "version_1", "a plan trains nothing"


def test_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "lightning_finetune", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[0] == "lightning-finetune"


def test_the_plan_is_shown_without_a_step(here: Path, photos: Path, capfd) -> None:
    made = command_line.run(["plan", "--data.root", str(photos), *SMALL, *SHORT, *QUIET])
    assert "head (1 of 9)" in capfd.readouterr().out
    assert made.trainer.global_step == 0
    assert {path.name for path in Path("lightning_logs/version_0").iterdir()} >= {"plan.png", "config.yaml"}
    assert not Path("lightning_logs/version_0/checkpoints").exists()
    assert not Path("lightning_logs/version_0/report.html").exists()


def test_a_batch_can_be_looked_at(here: Path, photos: Path) -> None:
    command_line.run(["show_batch", "--data.root", str(photos), *SMALL, *QUIET, "--count", "4", "--split", "valid"])
    with Image.open("lightning_logs/version_0/batch.png") as picture:
        shown = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert ((shown[:, 2] > 150) & (shown[:, 0] < 130)).mean() > 0.1, "the first images are those of the class blue"
