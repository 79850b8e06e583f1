"""Published modules, written as they are published, without a line changed: smp's notebook, Lightning's example."""

import lightning.pytorch
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.callbacks import FineTune, LRRangeTest
from lightning_finetune.engine.phases import Phase
from tests.modules.published import MovedByEpoch, fit, phases

CLASSES, STEPS = 3, 4


def camvid(pl):
    """The module of smp's notebook on CamVid, which keeps what its steps gave until the epoch ends."""

    class CamVidModel(pl.LightningModule):
        def __init__(self, arch, encoder_name, in_channels, out_classes, **kwargs):
            super().__init__()
            self.model = smp.create_model(
                arch, encoder_name=encoder_name, in_channels=in_channels, classes=out_classes, **kwargs
            )
            params = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # smp asks its hub for them
            self.number_of_classes = out_classes
            self.register_buffer("std", torch.tensor(params["std"]).view(1, 3, 1, 1))
            self.register_buffer("mean", torch.tensor(params["mean"]).view(1, 3, 1, 1))
            self.loss_fn = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True)
            self.training_step_outputs = []

        def forward(self, image):
            return self.model((image - self.mean) / self.std)

        def shared_step(self, batch, stage):
            image, mask = batch
            mask = mask.long()
            logits_mask = self.forward(image).contiguous()
            loss = self.loss_fn(logits_mask, mask)
            pred_mask = logits_mask.softmax(dim=1).argmax(dim=1)
            tp, fp, fn, tn = smp.metrics.get_stats(
                pred_mask, mask, mode="multiclass", num_classes=self.number_of_classes
            )
            return {"loss": loss, "tp": tp, "fp": fp, "fn": fn, "tn": tn}

        def training_step(self, batch, batch_idx):
            train_loss_info = self.shared_step(batch, "train")
            self.training_step_outputs.append(train_loss_info)
            return train_loss_info

        def on_train_epoch_end(self):
            parts = [torch.cat([x[name] for x in self.training_step_outputs]) for name in ("tp", "fp", "fn", "tn")]
            iou = smp.metrics.iou_score(*parts, reduction="micro-imagewise")
            self.log_dict({"train_per_image_iou": iou, "train_images": float(len(parts[0]))})
            self.training_step_outputs.clear()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
            }

    torch.manual_seed(0)
    return CamVidModel("FPN", "resnet18", 3, CLASSES, encoder_weights=None)


def masks() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2 * STEPS, 3, 64, 64, generator=generator)
    return DataLoader(TensorDataset(images, (images[:, 0] * CLASSES).long()), batch_size=2)


def run(pl, folder, *callbacks):
    """The module after a fit, what it logged, and what moved in each epoch."""
    pl.seed_everything(3, verbose=False)
    module, epochs = camvid(pl), MovedByEpoch()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[*callbacks, epochs], **quiet)
    trainer.fit(module, masks())
    return module, dict(trainer.callback_metrics), epochs.names


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_the_notebook_of_segmentation_models(tmp_path, package):
    pl = pytest.importorskip(package)
    plain = [Phase(1, "head", 1e-3, 64), Phase(1, "all", (1e-4, 1e-3), 96)]
    module, logged, (head, everything) = run(pl, tmp_path, FineTune(plain, scheduler="replace"))
    assert {name.split(".")[1] for name in head} == {"decoder", "segmentation_head"}
    assert any(name.startswith("model.encoder.conv1") for name in everything)
    assert logged["train_images"] == 2 * STEPS, "no batch of a dry run is counted"
    tested, same, _ = run(pl, tmp_path, LRRangeTest(num_steps=6, apply=False), FineTune(plain, scheduler="replace"))
    assert same == logged
    assert all(torch.equal(value, tested.state_dict()[name]) for name, value in module.state_dict().items())


class TransferLearningModel(lightning.pytorch.LightningModule):
    """Of Lightning's `computer_vision_fine_tuning.py`."""

    def __init__(self, backbone="resnet18", train_bn=False, milestones=(2, 4), lr=1e-3, lr_scheduler_gamma=1e-1):
        super().__init__()
        self.save_hyperparameters()
        backbone = torchvision.models.get_model(backbone, weights=None)
        _layers = list(backbone.children())[:-1]
        self.feature_extractor = nn.Sequential(*_layers)
        _fc_layers = [nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 32), nn.Linear(32, 1)]
        self.fc = nn.Sequential(*_fc_layers)
        self.loss_func = F.binary_cross_entropy_with_logits

    def forward(self, x):
        x = self.feature_extractor(x)
        x = x.squeeze(-1).squeeze(-1)
        return self.fc(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self(x)
        return self.loss_func(y_logits, y.view((-1, 1)).type_as(x))

    def configure_optimizers(self):
        parameters = list(self.parameters())
        trainable_parameters = list(filter(lambda p: p.requires_grad, parameters))
        optimizer = torch.optim.Adam(trainable_parameters, lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=self.hparams.milestones)
        return [optimizer], [scheduler]


def test_the_fine_tuning_example_of_lightning(tmp_path):
    torch.manual_seed(0)
    module = TransferLearningModel()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=4)
    head, everything = fit(tmp_path, module, data, FineTune(phases(), scheduler="replace"))
    assert {name.split(".")[0] for name in head} == {"fc"}
    assert {name.split(".")[1] for name in everything if "feature" in name} == {"0", "1", "4", "5", "6", "7"}
