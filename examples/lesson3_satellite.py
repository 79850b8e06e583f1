# %% [markdown]
# # Lesson 3: several labels for one picture, small pictures first
#
# A tile of the earth from above shows grass and trees and a road: not one class, but any number of labels. And a
# trick of the lessons that costs nothing: train on small pictures first, then go on with the same model on larger
# ones.
#
# The lesson's data is "Planet: understanding the Amazon from space". Here it is UC Merced, cut from images of the US
# Geological Survey, which are in the public domain, with the 17 labels that Chaudhuri and others gave them (2018).
# Any folder with a table of names and labels will do: name it in the environment variable `SATELLITE`.

# %%
# %matplotlib inline
import os
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lightning_finetune import (
    FineTune,
    ImageData,
    MultiLabelClassifier,
    Phase,
    PlotRun,
    TrainingDiagnosis,
    interpret,
    load,
)

# %% tags=["parameters"]
ROOT = Path(os.environ.get("SATELLITE", "data/satellite"))
SMALL, LARGE = 128, 256
BATCH = 32
EPOCHS = (2, 2, 1, 1)  # the lesson has five each, and a GPU

# %% [markdown]
# ## The data
#
# A table says which image has which labels, separated by spaces, and which images validate.

# %%
pl.seed_everything(42)
pd.read_csv(ROOT / "labels.csv").head(3)

# %% [markdown]
# Seen straight from above no side is up and nothing leans: `augment="satellite"` turns tiles by any quarter, and
# bends none. The size is the final one; the plan says when it is smaller.

# %%
data = ImageData.from_csv(
    ROOT,
    label_col="tags",
    label_delim=" ",
    valid_col="is_valid",
    folder="images",
    size=LARGE,
    batch_size=BATCH,
    augment="satellite",
)
print(data.summary())

# %%
data.show_batch(6)

# %% [markdown]
# ## The model, and what is measured
#
# Each label is a question of its own, yes or no, so each has a probability of its own and a threshold. To miss a
# label is worse here than to add one too many: hence F2, which weighs recall four times as much as precision, and a
# threshold of 0.2 instead of one half. Both are the lesson's, and the defaults.

# %%
model = MultiLabelClassifier("tf_efficientnet_lite0", num_classes=data.num_classes, threshold=0.2, head="concat_pool")

# %% [markdown]
# ## The plan
#
# The lesson's four stages: head, then everything, on small pictures; the same again on large ones. Small pictures are
# cheap (a quarter of the pixels is about a quarter of the work), and to the network the larger ones are nearly a new
# data set, so that it does not learn the old one by heart. Rates of each larger size are half of those before.
#
# Not below 64 pixels, say the lessons, and smaller is refused unless told otherwise. Validation is at the final size
# throughout, so that all stages are measured alike; a model that trained on small pictures alone meets larger ones
# there, and what it scores jumps when it is trained on them.

# %%
fine_tune = FineTune(
    [
        Phase(EPOCHS[0], train="head", lr=1e-2, size=SMALL),
        Phase(EPOCHS[1], train="all", lr=(1e-5, 2e-3), size=SMALL),
        Phase(EPOCHS[2], train="head", lr=5e-3, size=LARGE),
        Phase(EPOCHS[3], train="all", lr=(1e-5, 1e-3), size=LARGE),
    ],
    train_norm=True,
)

# %% [markdown]
# ## Training
#
# Freezing, unfreezing, rates and sizes all follow from the plan. The workers that load images are told the size of
# each phase and decode small pictures faster. Before the first epoch one step is tried at every size and undone, so
# that too large a picture fails now and not in an hour.

# %%
diagnosis = TrainingDiagnosis()
trainer = pl.Trainer(
    max_epochs=fine_tune.epochs,
    accelerator="auto",
    logger=CSVLogger("runs", "lesson3_satellite"),
    log_every_n_steps=10,
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    callbacks=[fine_tune, PlotRun(), diagnosis],
)
trainer.fit(model, data)
trainer.save_checkpoint("runs/lesson3_satellite/tiles.ckpt")

# %%
epochs = pd.read_csv(f"{trainer.log_dir}/metrics.csv").dropna(subset=["val_loss"]).astype({"epoch": int})
epochs.set_index("epoch")[["val_loss", "val_f2", "val_map"]].round(4)

# %%
Image.open(f"{trainer.log_dir}/run.png")

# %% [markdown]
# ## What the diagnosis says
#
# So short a run is rarely finished, and it may say so.

# %%
print([str(finding) for findings in diagnosis.findings.values() for finding in findings])

# %% [markdown]
# ## Where it is wrong
#
# Labels do not exclude each other, so there is no one matrix of confusions. Each label has its own precision (of the
# tiles that were said to show it, how many do) and recall (of the tiles that show it, how many were found). `support`
# is how many do. Rare labels need not be the hard ones: a dock or an airplane looks like nothing else, while bare
# soil, sand and dry grass go over into each other.

# %%
found = interpret(model, data)
found.report().sort_values("f1").round(2)

# %%
found.plot_top_losses(6)

# %% [markdown]
# ## Use it
#
# Every label over its threshold, of the tile that shows the most. With `tta="dihedral"` the model looks at the tile
# in all eight positions, and the mean of what it says is taken; from above, all of them are as good.

# %%
tile = found.items.loc[found.items.truth.str.count(" ").idxmax()]
task = load("runs/lesson3_satellite/tiles.ckpt")
print("is   ", tile.truth)
print("said ", *task.predict(tile.file).labels)
print("eight", *task.predict(tile.file, tta="dihedral").labels)
Image.open(tile.file)

# %% [markdown]
# ## All of this is one command
#
# ```bash
# lightning-finetune fit --config examples/satellite.yaml --data.root data/satellite
# ```
#
# with the lesson's five epochs in each phase: [`satellite.yaml`](../satellite.yaml).
