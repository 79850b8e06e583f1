import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.imports import RequirementCache
from PIL import Image
from timm.layers import Conv2dSame
from torch import nn

from lightning_finetune.after.export import export
from lightning_finetune.errors import CheckpointError, FinetuneError
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier, UNetSegmenter
from tests.tasks.photos import photo
from tests.tasks.subjects import SMALL, ready

onnxruntime = pytest.importorskip("onnxruntime")
SCRIPT = Path(__file__).parents[2] / "examples" / "onnx_predict.py"

pytestmark = pytest.mark.skipif(
    not RequirementCache("torch>=2.15"),
    reason="older exporters do not export all tasks; the extra `export` asks for it",
)


def onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"image": images.numpy()})[0])


def pt2(path: Path, images: torch.Tensor) -> torch.Tensor:
    return torch.export.load(path).module()(images)


@pytest.mark.parametrize(("name", "run"), [("m.onnx", onnx), ("m.pt2", pt2)])
@pytest.mark.parametrize(
    "build",
    [
        lambda: ImageClassifier("test_resnet", **SMALL),
        lambda: UNetSegmenter("unet", backbone="test_resnet", **SMALL),
    ],
)
def test_batch_and_size_are_free(tmp_path, name, run, build):
    task = ready(build())
    export(task, tmp_path / name)
    mean = torch.tensor(task.preprocessing["mean"])[:, None, None]
    for shape in ((1, 3, 64, 48), (5, 3, 97, 71)):
        images = torch.rand(shape)
        with torch.no_grad():
            expected = task.probabilities(task((images - mean) / 0.25))
        torch.testing.assert_close(run(tmp_path / name, images), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_network_that_pads_by_its_size_stays_exact(tmp_path):
    task = ready(ImageClassifier("tf_mobilenetv3_small_minimal_100", **SMALL))
    assert any(type(layer) is Conv2dSame for layer in task.modules())
    path = export(task, tmp_path / "same.onnx")
    mean = torch.tensor(task.preprocessing["mean"])[:, None, None]
    for side in (65, 66, 79, 96):
        images = torch.rand(1, 3, side, side + 3)
        with torch.no_grad():
            expected = task.probabilities(task((images - mean) / 0.25))
        torch.testing.assert_close(onnx(path, images), expected, rtol=0, atol=1e-4)


def test_a_model_of_one_size_says_so(tmp_path, caplog):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3))
    task = ImageClassifier(net, num_classes=3)
    task.preprocessing = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "crop"}
    export(task, tmp_path / "m.onnx")
    assert "one size only" in caplog.text
    assert json.loads((tmp_path / "m.json").read_text())["free"] == ["batch"]
    assert onnx(tmp_path / "m.onnx", torch.rand(7, 3, 64, 64)).shape == (7, 3)


def test_a_mismatch_is_an_error_and_leaves_no_file(tmp_path):
    class Doubled(ImageClassifier):
        def forward(self, images):
            return 2 * super().forward(images)

    with pytest.raises(FinetuneError, match=r"differs by .*Does the task's `forward` do more"):
        export(ready(Doubled("test_resnet", **SMALL)), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_the_file_needs(tmp_path):
    export(ready(MultiLabelClassifier("test_resnet", threshold=[0.2, 0.3, 0.4], **SMALL)), tmp_path / "m.pt2")
    card = json.loads((tmp_path / "m.json").read_text())
    assert card["classes"] == ["ant", "bee", "wasp"]
    assert card["thresholds"] == [0.2, 0.3, 0.4]
    assert (card["task"], card["kind"], card["size"], card["resize"]) == (
        "MultiLabelClassifier",
        "multi",
        [64, 48],
        "crop",
    )
    assert card["free"] == ["batch", "height", "width"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.pt2"]


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(tmp_path, channels):
    task = ready(ImageClassifier("test_resnet", in_channels=channels, **SMALL), channels=channels)
    path = export(task, tmp_path / "m.onnx")
    assert onnx(path, torch.rand(2, channels, 64, 64)).shape == (2, 3)


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(FinetuneError, match=r"ends in one of \['\.onnx', '\.pt2'\], got '\.pb'"):
        export(ready(ImageClassifier("test_resnet", **SMALL)), tmp_path / "m.pb")
    with pytest.raises(FinetuneError, match="knows the size"):
        export(ImageClassifier("test_resnet", **SMALL), tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="there is none"):
        export(tmp_path / "missing.ckpt", tmp_path / "m.onnx")


def without_torch(tmp_path: Path, *args: object) -> str:
    """Runs the example where importing torch, timm or this package fails."""
    block = "import sys; sys.modules.update(torch=None, timm=None, lightning=None, lightning_finetune=None)"
    code = f"{block}; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=100).stdout


def test_the_example_labels_an_image_without_torch(tmp_path):
    task = ready(ImageClassifier("test_resnet", **SMALL))
    export(task, tmp_path / "m.onnx")
    photo("red", 3).save(tmp_path / "a.png")
    rows = [line.split("\t") for line in without_torch(tmp_path, "m.onnx", "a.png").splitlines()]
    expected = task.predict(tmp_path / "a.png").probabilities
    assert [row[0] for row in rows] == list(expected)
    assert [float(row[1]) for row in rows] == pytest.approx(list(expected.values()), abs=1e-4)


def test_the_example_draws_a_mask_without_torch(tmp_path):
    torch.manual_seed(0)
    task = ready(UNetSegmenter("unet", backbone="test_resnet", **SMALL), size=(40, 40))
    export(task, tmp_path / "m.onnx")
    photo("red", 3).resize((90, 71)).save(tmp_path / "a.png")
    without_torch(tmp_path, "m.onnx", "a.png", "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert len(np.unique(mask)) > 1
    assert (mask == task.predict(tmp_path / "a.png").mask).mean() > 0.95  # Pillow rounds what it resizes
