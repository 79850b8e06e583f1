"""A detector of torchvision whose early layers its builder froze."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tests.modules.published import bits, fit, frozen


class Detector(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=2)
        self.model = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64)

    def training_step(self, batch, batch_idx):
        return sum(self.model(*batch).values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def boxes() -> DataLoader:
    box = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
    generator = torch.Generator().manual_seed(1)
    items = [(torch.rand(3, 64, 64, generator=generator), box) for _ in range(4)]
    return DataLoader(items, batch_size=2, collate_fn=lambda rows: tuple(map(list, zip(*rows, strict=True))))


@pytest.mark.filterwarnings("ignore:No positive samples")  # its head is most of it, and no warning says so
def test_layers_that_the_builder_froze_stay_frozen(tmp_path):
    torch.manual_seed(0)
    module = Detector()
    theirs, before = frozen(module), bits(module)
    assert {name.split(".")[3] for name in theirs} == {"conv1", "layer1", "layer2"}
    head, everything = fit(tmp_path, module, boxes())
    assert {".".join(name.split(".")[1:3]) for name in head} <= {
        "backbone.fpn",
        "rpn.head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
    }
    assert len(head) > 20
    assert {name.split(".")[3] for name in everything if "backbone.body" in name} == {"layer3", "layer4"}
    assert frozen(module) == theirs
    assert all(torch.equal(before[name], value) for name, value in bits(module).items() if name in theirs)
