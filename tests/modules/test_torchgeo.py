"""Tasks of torchgeo as they are, with phases, sizes and a range test in the place of their schedulers."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.phases import Phase
from tests.modules.published import NEEDS, fit

trainers = pytest.importorskip("torchgeo.trainers", reason=NEEDS)


def data(**targets) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    rows = [{"image": torch.rand(3, 128, 128, generator=generator), **targets} for _ in range(4)]
    keys = ("bbox_xyxy", "label")  # of detection: a list, one tensor an image

    def batch(rows):
        return {key: [r[key] for r in rows] if key in keys else torch.stack([r[key] for r in rows]) for key in rows[0]}

    return DataLoader(rows, batch_size=2, collate_fn=batch)


def phases() -> list[Phase]:
    return [Phase(1, "head", 1e-3, 64), Phase(1, "all", (1e-4, 1e-3), 96)]


def test_segmentation(tmp_path):
    torch.manual_seed(0)
    task = trainers.SemanticSegmentationTask(model="unet", backbone="resnet18", num_classes=3, loss="ce")
    masks = data(mask=torch.arange(3).repeat(128 * 128 // 3 + 1)[: 128 * 128].reshape(128, 128))
    head, everything = fit(tmp_path, task, masks, FineTune(phases(), scheduler="replace"))
    assert {name.split(".")[1] for name in head} == {"decoder", "segmentation_head"}
    assert "model.encoder.conv1.weight" in everything


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_detection_with_its_boxes(tmp_path):
    torch.manual_seed(0)
    pytest.importorskip("pycocotools", reason=NEEDS)
    task = trainers.ObjectDetectionTask(model="faster-rcnn", backbone="resnet18", num_classes=3)
    seen: set[tuple[float, ...]] = set()
    task.model.register_forward_pre_hook(
        lambda module, given: seen.add((float(given[0].shape[-1]), *given[1][0]["boxes"][0].tolist()))
    )
    boxes = data(bbox_xyxy=torch.tensor([[16.0, 16, 80, 96]]), label=torch.tensor([1]))
    head, everything = fit(tmp_path, task, boxes, FineTune(phases(), scheduler="replace"))
    assert seen == {(64, 8, 8, 40, 48), (96, 12, 12, 60, 72)}
    assert not any(".body." in name for name in head)
    trained = {name.split(".body.")[1].split(".")[0] for name in everything if ".body." in name}
    assert trained == {"conv1", "layer2", "layer3", "layer4"}, "the builder froze layer1"
