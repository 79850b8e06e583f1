"""Trains in processes that Lightning starts, and says what this one knows: ``python -m ... PHOTOS OUT STRATEGY``."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_finetune import FineTune, ImageData, MultiLabelClassifier, Phase, load


def main() -> None:
    photos, out, strategy = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    files = sorted(photos.rglob("*.jpg"))
    labels = [[file.parent.name, "lit"] for file in files]
    data = ImageData.from_lists(files, labels, valid_pct=0.4, size=32, batch_size=4, num_workers=0)
    task = MultiLabelClassifier("test_resnet", num_classes=4, weights=False, threshold="tuned_per_label")
    before = list(task.thresholds)
    names = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    options = {"accelerator": "cpu", "devices": 2, "strategy": strategy, "default_root_dir": out}
    phased = FineTune([Phase(1, "head", 1e-2)])
    trainer = pl.Trainer(callbacks=[phased], **options, **dict.fromkeys(names, False))
    trainer.fit(task, data)
    trainer.save_checkpoint(out / "saved.ckpt")
    known = [task.learned(), load(out / "saved.ckpt").learned()]
    (out / "known.json").write_text(json.dumps({"before": before, "known": known}))


if __name__ == "__main__":
    main()
