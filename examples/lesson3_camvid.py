# %% [markdown]
# # Lesson 3: the class of every pixel
#
# CamVid is film from a car in Cambridge. Every pixel of every frame has a class: road, sky, pedestrian. A *U-Net*
# learns to draw such a map: an encoder makes the picture small and finds what is in it, a decoder makes it large
# again and finds where, with bridges between the two at every size.
#
# The frames here are 360 by 480 pixels with 12 classes, of which the last, Void, marks what nobody labelled. Name
# their folder, or one of yours, in the environment variable `CAMVID`. The film is not ours to give on, so this page
# leaves photos out, and says where; run it and they are there.

# %%
# %matplotlib inline
import os
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.loggers import CSVLogger
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from lightning_finetune import FineTune, ImageData, Phase, PlotRun, TrainingDiagnosis, UNetSegmenter, interpret, load

# %% tags=["parameters"]
ROOT = Path(os.environ.get("CAMVID", "data/camvid"))
SMALL, LARGE = (96, 128), (192, 256)  # height and width
BATCH = 8
EPOCHS = (4, 4, 2, 2)  # the lesson has 10, 12, 10 and 10, and larger frames

# %% [markdown]
# ## The data
#
# Each image has a mask of the same name, a picture whose pixels are class numbers, and `codes.txt` has the names. The
# summary counts the frames that show each class.

# %%
pl.seed_everything(42)
data = ImageData.from_folder(ROOT, masks="masks", size=LARGE, batch_size=BATCH)
print(data.summary())

# %% [markdown]
# A batch with its masks laid over it. Whatever turns or bends an image turns and bends its mask by the same matrix,
# with the nearest pixel and never a mean: between road (3) and sky (0) there is no class 1.5.

# %% tags=["photos"]
data.show_batch(4)

# %% [markdown]
# ## The model, and what is measured
#
# The encoder is pretrained, the decoder is new. `ignore_index` names the class that counts for nothing, neither in
# the loss nor in any figure: Void. The lesson measures the share of the other pixels that are right. More than half
# of them are road and buildings, so also watch the mean over classes of intersection over union (mIoU), in which a
# bicycle counts as much as the road.

# %%
void = data.classes.index("Void")
model = UNetSegmenter("unet", backbone="tf_efficientnet_lite0", num_classes=data.num_classes, ignore_index=void)

# %% [markdown]
# ## The plan
#
# As for satellite tiles: the new part, then everything, on small frames; the same again on larger ones. `"head"`
# means all that is new, decoder included. The lesson lets the rate rise for most of each phase: `pct_start` is the
# share of the phase before it falls.

# %%
fine_tune = FineTune(
    [
        Phase(EPOCHS[0], train="head", lr=3e-3, size=SMALL, pct_start=0.9),
        Phase(EPOCHS[1], train="all", lr=(7.5e-6, 7.5e-4), size=SMALL, pct_start=0.8),
        Phase(EPOCHS[2], train="head", lr=1e-3, size=LARGE, pct_start=0.8),
        Phase(EPOCHS[3], train="all", lr=(1e-6, 1e-4), size=LARGE),
    ],
    train_norm=True,
)

# %%
diagnosis = TrainingDiagnosis()
trainer = pl.Trainer(
    max_epochs=fine_tune.epochs,
    accelerator="auto",
    logger=CSVLogger("runs", "lesson3_camvid"),
    log_every_n_steps=10,
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    callbacks=[fine_tune, PlotRun(), diagnosis],
)
trainer.fit(model, data)
trainer.save_checkpoint("runs/lesson3_camvid/street.ckpt")

# %%
epochs = pd.read_csv(f"{trainer.log_dir}/metrics.csv").dropna(subset=["val_loss"]).astype({"epoch": int})
epochs.set_index("epoch")[["val_loss", "val_pixel_accuracy", "val_miou"]].round(4)

# %%
Image.open(f"{trainer.log_dir}/run.png")

# %% [markdown]
# What the diagnosis says of the run; an empty list is good news.

# %%
print([str(finding) for findings in diagnosis.findings.values() for finding in findings])

# %% [markdown]
# ## Where it is wrong
#
# Each class by itself. Large things are easy. Thin and rare ones are not found at all by so short a run at so small a
# size, where a pole is about a pixel wide: that is what the share of right pixels does not tell, and mIoU does.
# Larger frames and more epochs are the lesson's cure; `UNetSegmenter(loss={"ce": 1, "dice": 1})` and `class_weights`
# are others.

# %%
found = interpret(model, data)
found.report().sort_values("iou", ascending=False).round(2)

# %% [markdown]
# What is taken for what, in shares of the true pixels.

# %%
found.plot_confusion_matrix()

# %% [markdown]
# The frames with the largest losses, true mask on the left, found one on the right.

# %% tags=["photos"]
found.plot_top_losses(4)

# %% [markdown]
# ## Use it
#
# A prediction is a mask at the size of the file. On the left is what people drew, on the right what the model found.
# It never finds Void, which it was never asked for.

# %% tags=["photos"]
task = load("runs/lesson3_camvid/street.ckpt")


def draw_masks(frames: list[str]) -> Figure:
    """True and found mask of each frame, without the photo."""
    colours = [*colormaps["tab20"].colors[:void], "black", *colormaps["tab20"].colors[void + 1 : data.num_classes]]
    figure = Figure(figsize=(7, 2.7 * len(frames)), layout="constrained")
    for row, frame in zip(figure.subplots(len(frames), 2, squeeze=False), frames, strict=True):
        true = Path(frame.replace("images", "masks")).with_suffix(".png")
        for axes, mask in zip(row, (Image.open(true), task.predict(frame).mask), strict=True):
            axes.imshow(mask, cmap=ListedColormap(colours), vmin=-0.5, vmax=data.num_classes - 0.5)
            axes.set_axis_off()
    patches = [Patch(color=colour, label=name) for colour, name in zip(colours, data.classes, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


draw_masks(found.items.file.iloc[::40].tolist())

# %% [markdown]
# ## All of this is one command
#
# ```bash
# lightning-finetune fit --config examples/camvid.yaml --data.root data/camvid
# ```
#
# with the lesson's epochs and full frames: [`camvid.yaml`](../camvid.yaml).
