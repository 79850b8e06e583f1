# %% [markdown]
# # Lesson 1: breeds, or anything else, from pictures
#
# A network that has seen a million photos learns new classes within minutes: first its new last part, the *head*,
# then all of it, carefully. The lesson does this with 37 breeds of cats and dogs, the Oxford-IIIT pets.
#
# The outputs on this page come from another data set, 21 kinds of land use seen from the air (UC Merced, cut from
# images of the US Geological Survey), because its pictures are in the public domain. The code knows no difference: in
# both, the name of a file says its class, `great_pyrenees_173.jpg` or `golfcourse07.jpg`. Run it yourself and it
# fetches the pets, once and about 800 MB, or name a folder of yours in the environment variable `PETS`.

# %%
# %matplotlib inline
import os
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase, PlotRun, TrainingDiagnosis, interpret, load

# %% tags=["parameters"]
IMAGES = Path(os.environ.get("PETS", "data/oxford-iiit-pet/images"))
SIZE = 128  # the lesson has 224; this one is for a machine without a GPU
BATCH = 32
EPOCHS = (4, 2)  # of the head, and of everything

# %% [markdown]
# ## The data
#
# The label is cut out of each file's name by a regular expression. A fifth of the images, drawn at random, is held
# out for validation: the model never trains on them, and every figure below is measured on them. The summary counts,
# and warns of what would make those figures look better than they are: one picture among both, for instance, under
# two names.

# %%
if "PETS" not in os.environ:
    OxfordIIITPet("data", download=True)  # once; needs a network

pl.seed_everything(42)
data = ImageData.from_name_re(IMAGES, r"^(.+?)_?\d+\.jpg$", valid_pct=0.2, size=SIZE, batch_size=BATCH)
print(data.summary())

# %% [markdown]
# Look at the data before anything else. This is a batch as the model will see it: mirrored, turned, bent and lit a
# little, and differently in every epoch, so that it cannot learn pictures by heart. For pets that is right. For
# aerial tiles, where no side is up, `augment="satellite"` would be better; lesson 3 has it.

# %%
data.show_batch(6)

# %% [markdown]
# ## The model
#
# A backbone that was trained on ImageNet, and a new head with one output a class. The default backbone is installed
# with the package; `"torchvision/resnet34"`, the lesson's, would be downloaded. What is measured is the error rate,
# the share of images that get the wrong class.

# %%
model = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes, head="concat_pool")

# %% [markdown]
# ## The plan
#
# The head is new and knows nothing, the backbone knows a lot. So the head is trained alone at first, at 3e-3; big
# steps of a head that still guesses would only spoil the layers below. Then everything is unfrozen, and two things
# change.
#
# **The rates become small, and different.** Early layers know edges and textures, which are the same everywhere; late
# ones know fur or roofs. So the rate rises from layer group to layer group, from the input to the head, whose peak is
# a tenth of what it was.
#
# **The lower end is not guessed.** Before the second phase a *range test* trains for some steps with a growing
# rate and then puts everything back as it was. Its curve stays flat and then shoots up; the lessons take a tenth of
# the rate just before. That is what `"find"` stands for.
#
# Each phase is one cycle: the rate warms up, peaks, and fades. Norm layers keep training while the rest of the
# backbone is frozen, as in the lessons (`train_norm=True`), which is what unusual pictures need.

# %%
fine_tune = FineTune(
    [
        Phase(EPOCHS[0], train="head", lr=3e-3),
        Phase(EPOCHS[1], train="all", lr=("find", 3e-4)),
    ],
    train_norm=True,
)

# %% [markdown]
# ## Training
#
# A plan is a callback of Lightning's Trainer, as are a picture of the run and a diagnosis of it. What was planned is
# printed at the start, what came of it at the end.

# %%
diagnosis = TrainingDiagnosis()
trainer = pl.Trainer(
    max_epochs=fine_tune.epochs,
    accelerator="auto",
    logger=CSVLogger("runs", "lesson1"),
    log_every_n_steps=10,
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    callbacks=[fine_tune, PlotRun(), diagnosis],
)
trainer.fit(model, data)
trainer.save_checkpoint("runs/lesson1/pets.ckpt")

# %%
epochs = pd.read_csv(f"{trainer.log_dir}/metrics.csv").dropna(subset=["val_loss"]).astype({"epoch": int})
epochs.set_index("epoch")[["val_loss", "val_error_rate"]].round(4)

# %% [markdown]
# Here are the losses, the error and the rate of each layer group over the steps, with the phases behind them. In the
# second phase the rates fan out.

# %%
Image.open(f"{trainer.log_dir}/run.png")

# %% [markdown]
# ## What the range test saw
#
# The dots are the losses of single steps, the line is their running mean, which lags. The shaded band holds the rates
# that were chosen, from the input to the head. On this page the curve shoots up so late that a tenth of that is more
# than the upper rate; a band from there to 3e-4 would be upside down. Then it begins at a tenth of the upper rate,
# and the line under the results says so.

# %%
Image.open(f"{trainer.log_dir}/lr_range_phase_2.png")

# %% [markdown]
# Did anything look wrong? Too high or too low a rate, too many or too few epochs: the diagnosis says which, with the
# numbers that show it. An empty list is good news.

# %%
print([str(finding) for findings in diagnosis.findings.values() for finding in findings])

# %% [markdown]
# ## Where it is wrong
#
# The validation images with the largest losses, each under what the model said, its loss, and the probability it gave
# to that. Look for three things: labels that are wrong, pictures that nobody could tell, and mistakes that you would
# not have made.

# %%
found = interpret(model, data)
found.plot_top_losses(6)

# %%
found.most_confused(min_val=2).head(8)

# %% [markdown]
# The whole matrix: true classes down, predicted ones across. Off the diagonal are the confusions. Some are mistakes
# that people make as well, and that is the best sign that it has learnt to look.

# %%
found.plot_confusion_matrix()

# %% [markdown]
# ## Use it
#
# The checkpoint knows its classes, its size and its statistics. `load` runs nothing that is in the file.

# %%
image = found.items.file.iloc[-1]
said = load("runs/lesson1/pets.ckpt").predict(image)
print("is", found.items.truth.iloc[-1], {name: round(share, 3) for name, share in list(said.probabilities.items())[:3]})
Image.open(image)

# %% [markdown]
# ## All of this is one command
#
# ```bash
# lightning-finetune fit --config examples/pets.yaml --data.root data/oxford-iiit-pet/images
# ```
#
# The plan of [`pets.yaml`](../pets.yaml) is the one above. Everything that was looked at here lies in its folder
# under `lightning_logs` afterwards.
