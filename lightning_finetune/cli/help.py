"""The help of the command as texts, so that it answers before torch and Lightning are loaded.

In a text each option stands with its default, or with a word in capitals if it has none; ``tests/cli/test_help.py``
compares names and defaults with those of the real parser.
"""

from __future__ import annotations

import re

OVERVIEW = """\
usage: lightning-finetune COMMAND [FOLDER] [options]

Train:
  fit FOLDER          fine-tune on a folder of images
  plan FOLDER         show the phases of that run, train nothing
  lr-find FOLDER      run the learning rate range test, train nothing
  show-batch FOLDER   save a picture of a batch as the model sees it
  sweep               search hyper-parameters on this machine

After training:
  predict             predict images with a checkpoint
  interpret           show the worst images and the confused classes
  validate, test      measure a checkpoint on validation or test images
  export              write a checkpoint as ONNX or torch.export file
  diagnose FILE       tell from metrics.csv what went wrong in a run

`lightning-finetune COMMAND --help` lists the options of a command.
`lightning-finetune --version` tells the version.
"""

_SUBJECTS = """\
FOLDER contains one subfolder per class, perhaps within train/ and valid/.
Labels in a table: --data.class_path lightning_finetune.ImageData.from_csv
Each option stands with its default; null leaves the choice to the program.

Data:
  --data.root FOLDER             the images
  --data.size 224                height and width in pixels
  --data.batch_size null         64, or fewer if there are few images
  --data.valid_pct null          share to validate on if there is no valid/: 0.2
  --data.augment photo           photo, satellite or none
  --data.mix null                mixup or cutmix
  --data.masks null              FOLDER of masks, for --model UNetSegmenter
  --data.num_workers null        processes that load images
  --data.seed 42                 of split, order and augmentation
  also: --data.train, valid, codes, resize, stats, channels, white, cache_images

Model:
  --model CLASS                  ImageClassifier, MultiLabelClassifier,
                                 ImageRegressor, UNetSegmenter, or the path of
                                 your own
  --model.model tf_efficientnet_lite0
                                 any name of timm, or torchvision/NAME
  --model.head multi_level       multi_level, linear or concat_pool
  --model.weights true           pretrained; false is random, or a FILE
  --model.label_smoothing 0.0
  also: --model.in_channels, dropout, loss, class_weights, lr, weight_decay,
        optimizer, metrics
"""

_RECIPE = """
Recipe:
  --fine_tune.epochs null        8
  --fine_tune.recipe measured    measured, or lessons for that of fast.ai
  --fine_tune.lr null            3e-3: a head alone; all layers a sixth of it
  --fine_tune.find false         let the range test choose the rates
  --fine_tune.sizes null         image sizes one after the other: [64,128,224]
  --fine_tune.phases null        your own list of phases
  also: --fine_tune.head_epochs, full_epochs, lr_ratio, train_norm, groups,
        min_size, unfreeze_all, scheduler
"""

_RUN = """
Run:
  --config FILE                  options from a YAML file
  --seed_everything 42
  --trainer.default_root_dir null  where lightning_logs/ goes
  --trainer.accelerator auto     gpu, cpu, …
  --trainer.devices auto         how many of them
  --trainer.precision null       bf16-mixed is faster on a GPU
  --trainer.logger LOGGER        WandbLogger, TensorBoardLogger, …
  also: --log_predictions.num, seed; --epoch_table.monitor, mode;
        --report.enabled; --best.monitor, mode; --last.every_n_train_steps

--help-all lists every option, those of the Trainer and of callbacks included.
"""

_RESUME = """
  --ckpt_path FILE               {}
  also: --weights_only
"""


def _page(usage: str, what: str, *sections: str) -> str:
    return f"usage: lightning-finetune {usage}\n\n{what}\n{''.join(sections)}"


COMMANDS = {
    "fit": _page(
        "fit FOLDER [options]",
        "Fine-tune on the images of FOLDER.",
        _SUBJECTS,
        _RECIPE,
        _RESUME.format("go on with the run of this checkpoint"),
        _RUN,
    ),
    "plan": _page("plan FOLDER [options]", "Show the phases of a run; train nothing.", _SUBJECTS, _RECIPE, _RUN),
    "lr_find": _page(
        "lr-find FOLDER [options]",
        "Raise the learning rate step by step and say which one to take; train nothing.",
        _SUBJECTS,
        "\nRange test:\n"
        "  --unfrozen false               with all layers training, or the head alone\n"
        "  --ckpt null                    checkpoint whose weights to begin with\n",
        _RUN,
    ),
    "show_batch": _page(
        "show-batch FOLDER [options]",
        "Save a picture of images as the model sees them; train nothing.",
        _SUBJECTS,
        "\nPicture:\n"
        "  --count 9                      how many images\n"
        "  --split train                  train, valid or test\n"
        "  --epoch 0                      whose order and augmentation\n",
        _RUN,
    ),
    "validate": _page(
        "validate FOLDER --ckpt_path FILE [options]",
        "Measure a checkpoint on the validation images.",
        _SUBJECTS,
        _RESUME.format("the checkpoint"),
        "  also: --verbose\n",
        _RUN,
    ),
    "test": _page(
        "test FOLDER --ckpt_path FILE [options]",
        "Measure a checkpoint on the images of FOLDER/test.",
        _SUBJECTS,
        _RESUME.format("the checkpoint"),
        "  also: --verbose\n",
        _RUN,
    ),
    "interpret": _page(
        "interpret FOLDER --ckpt_path FILE [options]",
        "Show on which validation images a checkpoint is wrong.",
        _SUBJECTS,
        "\n  --ckpt_path FILE               the checkpoint\n"
        "  --out null                     folder to write to; else that of the run\n"
        "  --overwrite false              replace what is there\n"
        "  --tile null                    masks: side of the pieces of larger images\n",
        _RUN,
    ),
    "predict": """\
usage: lightning-finetune predict --ckpt_path FILE --images FOLDER [options]

Write what a checkpoint says about images: probabilities or numbers as
predictions.csv, masks as pictures.

  --ckpt_path FILE     the checkpoint
  --images FOLDER      a folder of images, or one image
  --out predictions    folder to write to
  --overwrite False    replace predictions that are there
  --tta none           mean over mirrored (flip) or all turned images (dihedral)
  --batch_size 32
  --tile null          masks: side in pixels of pieces of larger images
  --scale null         masks: pixels of the model per pixel of the image
  --task null          of your own: its dotted name
  --trainer.accelerator auto  gpu, cpu, …
  --trainer.devices auto      how many of them: all GPUs, or one process
  --trainer.strategy auto
  --trainer.num_nodes 1
  --trainer.precision null    bf16-mixed is faster on a GPU
""",
    "export": """\
usage: lightning-finetune export --ckpt_path FILE --out FILE

Write a checkpoint as one file that runs without this package, and check it
against the model.

  --ckpt_path FILE     the checkpoint
  --out FILE           ends in .onnx, or in .pt2 for torch.export
  --task null          of your own: its dotted name
""",
    "diagnose": """\
usage: lightning-finetune diagnose FILE

Tell from the metrics.csv of a run whether its learning rate was too high or too
low, and its training too long or too short.
""",
    "sweep": """\
usage: lightning-finetune sweep --file FILE [options]

Run trials of a W&B sweep file on this machine, without a server, and print the
best; start it again to go on.

  --file FILE          the sweep, in YAML
  --trials 10          how many to run now
  --out sweeps         folder of the results
""",
}
"""What ``COMMAND --help`` prints."""


def options(text: str) -> dict[str, str]:
    """Names of the options that a help text lists, with their defaults; a name after "also:" has none in the text."""
    defaults = dict(re.findall(r"^  --([\w.]+) (\S+)", text, re.MULTILINE))
    for also in re.findall(r"^  also: (.*(?:\n {8}.*)*)", text, re.MULTILINE):
        for part in also.split(";"):
            first, *rest = re.findall(r"[\w.]+", part)
            group = first.rpartition(".")[0]
            defaults |= dict.fromkeys([first, *(f"{group}.{name}" for name in rest)], "")
    return defaults
