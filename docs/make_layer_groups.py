"""The table of layer groups: ``python -m docs.make_layer_groups``, at the root of the repository.

Writes ``docs/layer-groups.md``. Needs transformers beside the packages of the project; downloads nothing: models are
made from configurations, most of them without memory for their weights. Takes a few minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

from lightning_finetune.engine.freezing import outermost
from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups

PAGE = Path(__file__).parent / "layer-groups.md"
MARK = "<!-- tables: python -m docs.make_layer_groups -->\n"
CLASSES = 10

TRANSFORMERS = [
    *("BertForSequenceClassification", "RobertaForSequenceClassification", "DistilBertForSequenceClassification"),
    *("DebertaForSequenceClassification", "DebertaV2ForSequenceClassification", "ModernBertForSequenceClassification"),
    *("ElectraForTokenClassification", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "LlamaForCausalLM"),
    *("LlamaForSequenceClassification", "T5ForConditionalGeneration", "T5ForSequenceClassification"),
    *("BartForConditionalGeneration", "BartForSequenceClassification", "WhisperForConditionalGeneration"),
    *("Wav2Vec2ForSequenceClassification", "Wav2Vec2ForCTC", "ViTForImageClassification"),
    *("Dinov2ForImageClassification", "SwinForImageClassification", "ConvNextForImageClassification"),
    *(
        "BeitForImageClassification",
        "SegformerForSemanticSegmentation",
        "CLIPModel",
        "CLIPVisionModel",
        "CLIPTextModel",
    ),
    *("CLIPVisionModelWithProjection", "CLIPForImageClassification", "SiglipModel", "DetrForObjectDetection"),
    *("RTDetrForObjectDetection", "Mask2FormerForUniversalSegmentation", "OneFormerForUniversalSegmentation"),
    "XLMRobertaForQuestionAnswering",
]
TORCHVISION = [
    *(
        "resnet50",
        "vgg16_bn",
        "densenet121",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "regnet_y_400mf",
    ),
    *(
        "convnext_tiny",
        "vit_b_16",
        "swin_t",
        "maxvit_t",
        "shufflenet_v2_x1_0",
        "inception_v3",
        "googlenet",
        "mvit_v2_s",
    ),
    *("r3d_18", "fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large", "fasterrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"),
    *("ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "mnasnet1_0", "raft_small", "raft_large"),
]
DECODERS = [
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet"),
    "Segformer",
]
ENCODERS = ["efficientnet-b0", "mobilenet_v2", "densenet121", "vgg16_bn", "mit_b0", "se_resnet50", "tu-convnext_tiny"]
SMALL = ("atto", "femto", "pico", "nano", "tiny", "small", "_xxs", "_xs", "_s0", "_b0", "_t0", "050", "18", "26")


def of_transformers() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Models of transformers, as their default configurations make them."""
    import transformers

    for name in TRANSFORMERS:
        kind = getattr(transformers, name)
        yield name, lambda kind=kind: kind(kind.config_class())


def of_torchvision() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Models of torchvision, those for dense tasks with auxiliary heads."""
    for name in TORCHVISION:
        home = torchvision.models.get_model_builder(name).__module__
        options = {"weights_backbone": None} if "detection" in home or "segmentation" in home else {}
        options |= {"aux_loss": True} if name.startswith(("fcn_", "deeplab")) else {}
        yield name, lambda name=name, options=options: torchvision.models.get_model(name, weights=None, **options)


def of_segmentation() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Every decoder of segmentation-models-pytorch, and encoders of several families."""
    for decoder in DECODERS:
        yield (
            f"{decoder}, resnet34",
            lambda decoder=decoder: smp.create_model(decoder, "resnet34", None, classes=CLASSES),
        )
    for encoder in ENCODERS:
        yield f"Unet, {encoder}", lambda encoder=encoder: smp.create_model("Unet", encoder, None, classes=CLASSES)
    yield (
        "DPT, tu-vit_base_patch16_224",
        lambda: smp.DPT("tu-vit_base_patch16_224", encoder_weights=None, classes=CLASSES),
    )


def of_timm() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """A small model of each family of timm."""
    for family in sorted(timm.list_modules()):
        names = timm.list_models(module=family)
        small = [name for name in names if any(word in name for word in SMALL) and not name.startswith("test_")]
        for name in (small or names)[:1]:
            yield name, lambda name=name: timm.create_model(name, num_classes=CLASSES)


SECTIONS = {
    "transformers": of_transformers,
    "torchvision": of_torchvision,
    "segmentation-models-pytorch": of_segmentation,
    "timm, a model of each family": of_timm,
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """The model, without memory for its weights where it can be made so."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()


def row(name: str, model: nn.Module) -> str:
    """A row of the table: how many groups, the first and the last of the body, what the head is, and its share."""
    groups = layer_groups(model)
    count = num_head_groups(groups)
    body, head = groups[:-count], groups[-count:]
    share = sum(group.num_params for group in head) / sum(group.num_params for group in groups)
    named = outermost(model, [param for group in head for param in group.params])
    ends = [body[0].name, *(["…"] if len(body) > 2 else []), *([body[-1].name] if len(body) > 1 else [])]
    return f"| {name} | {len(groups)} | {' '.join(ends)} | {', '.join(named[:6])} | {share:.1%} |"


def table(make: Callable[[], Iterator[tuple[str, Callable[[], nn.Module]]]]) -> str:
    """A table in Markdown."""
    head = ["| model | groups | body | head | its share |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row(name, made(model)) for name, model in make())])


def main() -> None:
    """Write the tables below the text of the page."""
    warnings.filterwarnings("ignore")
    text = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(text + MARK + "".join(f"\n## {title}\n\n{table(make)}\n" for title, make in SECTIONS.items()))


if __name__ == "__main__":
    main()
