"""The pets of lesson 1 as torchvision downloads them (about 800 MB, once), where there is a network.

python examples/oxford_pets.py               # breeds, by the recipe of pets.yaml
python examples/oxford_pets.py --trimaps     # which pixels are pet, by the recipe of pets_trimaps.yaml

Further words go to the command, such as --data.batch_size 16.
"""

import subprocess
import sys
from pathlib import Path

from torchvision.datasets import OxfordIIITPet

DATA = Path("data")
PETS = DATA / "oxford-iiit-pet"


def main(words: list[str]) -> None:
    download()
    recipe, root = ("pets_trimaps", PETS) if "--trimaps" in words else ("pets", PETS / "images")
    command = ["lightning-finetune", "fit", "--config", str(Path(__file__).with_name(f"{recipe}.yaml"))]
    command += ["--data.root", str(root), *(word for word in words if word != "--trimaps")]
    print("$", " ".join(command), flush=True)
    sys.exit(subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]]).returncode)  # noqa: S603  # ours


def download() -> None:
    """Fetch images and annotations, checked by their sums; nothing is fetched where they are there already."""
    try:
        OxfordIIITPet(DATA, download=True)
    except (OSError, RuntimeError) as error:  # no network, a server that is down, half a file
        sys.exit(
            f"The Oxford-IIIT pets could not be downloaded to {PETS}, which needs a network ({error}). Without one, "
            "unpack images.tar.gz and annotations.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/pets/ there, or take "
            "images of your own: lightning-finetune fit --data.root FOLDER"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
