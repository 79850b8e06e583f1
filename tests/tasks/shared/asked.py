"""Tasks that are asked in the processes of a Trainer: ``python -m tests.tasks.shared.asked OUT PHOTOS PROCESSES``.

Rank r writes ``OUT/rank{r}.json``: what it was given.
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from PIL import Image

from lightning_finetune import ImageClassifier, ImageData, SemanticSegmenter, interpret
from lightning_finetune.engine.processes import leave_group
from tests.tasks.subjects import SMALL, ready


def classifier() -> ImageClassifier:
    task = ready(ImageClassifier("test_resnet", **SMALL))
    task.classes = ["blue", "green", "red"]
    return task


def masks(photos: Path) -> ImageData:
    """Five photos and the brightness of their pixels as a mask; one is left over by two processes."""
    pairs = []
    for file in sorted((photos / "valid").rglob("*.jpg"))[:5]:
        image = Image.open(file)
        pairs.append((image, image.convert("L").point(lambda value: value // 90)))
    return ImageData.from_dataset(pairs, pairs, classes=["a", "b", "c"], size=(64, 48), batch_size=2, num_workers=0)


def ask(photos: Path, trainer: pl.Trainer | None) -> dict:
    torch.manual_seed(0)
    task, segmenter = classifier(), ready(SemanticSegmenter("fpn", backbone="resnet18", **SMALL))
    segmenter.classes = ["a", "b", "c"]
    files = sorted((photos / "valid").rglob("*.jpg"))[:7]
    found = [one.probabilities for one in task.predict(files, batch_size=2, trainer=trainer)]
    alone = [task.predict(files[:1], trainer=trainer)[0].probabilities]  # fewer images than processes
    data = ImageData.from_folder(photos, size=(64, 48), batch_size=4, num_workers=0)
    said = interpret(task, data, trainer=trainer)
    of_masks = interpret(segmenter, masks(photos), trainer=trainer)
    return {
        "found": found,
        "alone": alone,
        "items": said.items.to_dict("list"),
        "counts": said.counts.tolist(),
        "masks": of_masks.items["loss"].tolist(),
        "pixels": of_masks.counts.tolist(),
    }


def main() -> None:
    out, photos, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    trainer = pl.Trainer(accelerator="cpu", devices=processes, logger=False, enable_checkpointing=False)
    found = ask(photos, trainer)
    assert trainer.world_size == processes
    (out / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave_group()
