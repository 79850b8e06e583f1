"""Layer groups that no package says: read from what a network repeats and from the names of its layers."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from tests.engine.groups.grouping import groups_of, head_of


def layer(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())


def blocks(count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(layer() for _ in range(count))


class Made(nn.Module):
    """A module with the layers that are given, in this order."""

    def __init__(self, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in layers.items():
            setattr(self, name, part)


class Language(Made):
    """A model of transformers: what is pretrained has the name that the class says."""

    base_model_prefix = "net"


def text(**layers: nn.Module) -> Made:
    """A body as BERT's: embeddings, an encoder whose blocks nobody calls layers, a pooler."""
    embeddings = Made(words=nn.Embedding(9, 4), LayerNorm=nn.LayerNorm(4))
    return Made(embeddings=embeddings, encoder=Made(whatever=blocks(), **layers), pooler=Made(dense=nn.Linear(4, 4)))


# -- the body ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_of_blocks_is_split_whatever_its_owner_is_called(wrapped):
    net = Made(bert=text(), classifier=nn.Linear(4, 2))
    found = groups_of(Made(loss=nn.CrossEntropyLoss(), net=net) if wrapped else net)
    assert [*found] == ["bert.embeddings", *(f"bert.encoder.whatever.{i}" for i in range(3)), "head"]
    assert {name.removeprefix("net.") for name in found["head"]} == {
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")
    }


def test_one_block_is_split_too():
    assert "body.blocks.0" in groups_of(Made(body=Made(embed=nn.Embedding(3, 4), blocks=blocks(1)), fc=nn.Linear(4, 2)))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4), nn.PReLU())])
def test_a_norm_before_the_head_goes_with_the_last_layer_of_the_body(norm):
    net = Made(backbone=Made(embed=nn.Embedding(3, 4), layers=blocks()), norm=norm, head=nn.Linear(4, 2))
    assert {"norm" in name for name in groups_of(net)["backbone.layers.2"]} == {True, False}
    plain = nn.Sequential(Made(a=nn.Linear(4, 4), b=nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert groups_of(plain)["0.b"] == {"0.b.weight", "0.b.bias", "1.weight", "1.bias"}


def test_a_final_norm_that_is_declared_before_the_blocks_goes_with_the_last():
    net = Made(embed=nn.Embedding(3, 4), final_layer_norm=nn.LayerNorm(4), layers=blocks(), lm_head=nn.Linear(4, 3))
    assert "final_layer_norm.weight" in groups_of(net)["layers.2"]


def test_embeddings_act_at_the_input_wherever_they_are_declared():
    net = Made(bert=text(rel_embeddings=nn.Embedding(5, 4), LayerNorm=nn.LayerNorm(4)), classifier=nn.Linear(4, 2))
    assert "bert.encoder.rel_embeddings.weight" in groups_of(net)["embeddings"]
    late = Made(layers=blocks(), wpe=nn.Embedding(3, 4), head=nn.Linear(4, 2))
    assert [*groups_of(late)][-1] == "head"
    assert head_of(late) == {"head.weight", "head.bias"}


def test_prompts_act_at_the_input_of_a_network_that_is_frozen():
    """As peft's prompt tuning has it: the prompts are declared last, and nothing else but the classifier trains."""
    module = Made(base=text(), prompt_encoder=Made(embedding=nn.Embedding(3, 4)))
    module.base.requires_grad_(False)
    module.base.classifier = nn.Linear(4, 2)
    assert list(groups_of(module)) == ["prompt_encoder", "base"]
    assert head_of(module) == {"base.classifier.weight", "base.classifier.bias"}


def test_prototypes_of_classes_are_a_head_though_they_are_an_embedding():
    net = Made(net=text(), prototypes=nn.Embedding(7, 4))
    assert "prototypes.weight" in head_of(net)


def test_what_goes_with_each_stage_is_in_its_group():
    """As the lists of SegFormer and ConvNeXt, and the numbers of PVT: beside the blocks, not before them."""
    lists = Made(
        patch_embeddings=nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3)),
        stages=nn.ModuleList(blocks(2) for _ in range(3)),
        layer_norm=nn.ModuleList(nn.LayerNorm(4) for _ in range(3)),
    )
    found = groups_of(Made(encoder=lists, decode_head=nn.Linear(4, 2)))
    assert [*found] == ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2", "decode_head"]
    assert {name.split(".")[1] for name in found["encoder.stages.1"]} == {"patch_embeddings", "stages", "layer_norm"}
    numbers = {f"{kind}{i}": make() for i in (1, 2, 3) for kind, make in [("patch_embed", layer), ("block", blocks)]}
    found = groups_of(Made(**dict(sorted(numbers.items(), reverse=True)), head=nn.Linear(4, 2)))
    assert found["block2"] == {name for name in found["block2"] if name.startswith(("block2", "patch_embed2"))}
    assert any(name.startswith("patch_embed2") for name in found["block2"])


def test_many_parts_are_split_where_they_hold_lists_of_blocks():
    """As detectors of transformers have it: a backbone, an encoder, a decoder, and much between them."""
    between = {f"{name}_proj": layer() for name in ("vision", "text", "query", "key", "value")}
    net = Language(backbone=Made(stages=blocks()), **between, encoder=Made(layers=blocks()), classifier=nn.Linear(4, 2))
    assert [name for name in groups_of(net) if name[-2] == "."] == [
        *(f"backbone.stages.{i}" for i in range(3)),
        *(f"encoder.layers.{i}" for i in range(3)),
    ]


def test_what_follows_the_blocks_within_a_pretrained_network_is_pretrained():
    net = Language(net=text(positions=nn.Linear(4, 4)), classifier=nn.Linear(4, 2))
    assert "net.encoder.positions.weight" in groups_of(net)["net.encoder.whatever.2"]


def test_the_two_ends_of_a_u_are_not_put_together():
    net = Made(downs=blocks(), mid=layer(), ups=blocks(), outc=nn.Conv2d(4, 2, 1))
    assert [*groups_of(net)] == ["downs.0", "downs.1", "downs.2", "mid", "ups.0", "ups.1", "ups.2", "outc"]


def test_numbered_stages_are_groups_and_what_follows_them_before_the_head_is_pretrained():
    stages = {f"stage{i}": nn.Sequential(*blocks(2)) for i in (2, 3, 4)}
    net = Made(conv1=nn.Conv2d(3, 4, 1), **stages, conv5=nn.Sequential(nn.Conv2d(4, 4, 1)), fc=nn.Linear(4, 2))
    assert [*groups_of(net)] == ["conv1", "stage2", "stage3", "stage4", "conv5", "fc"]
    assert [
        *groups_of(Made(conv1=nn.Conv2d(3, 4, 1), conv2=nn.Conv2d(4, 4, 1), fc1=nn.Linear(4, 4), fc2=nn.Linear(4, 2)))
    ] == [*("conv1", "conv2", "fc1", "fc2")]


def test_stages_of_one_kind_are_not_taken_apart():
    """As they are named in many a network of one's own."""
    stages = {name: nn.Sequential(*(layer() for _ in range(3))) for name in ("low", "mid", "high")}
    assert [*groups_of(Made(**stages, fc=nn.Linear(4, 2)))] == ["low", "mid", "high", "fc"]


def test_both_towers_are_split_and_a_scale_of_logits_is_new():
    tower = {"text_model": text(), "vision_model": text()}
    net = Made(**tower, projection=nn.Linear(4, 4), logit_scale=nn.Parameter(torch.ones([])))
    found = groups_of(net)
    assert next(iter(found)) == "embeddings"
    assert len([name for name in found if "whatever" in name]) == 6
    assert found["head"] >= {"projection.weight", "logit_scale"}


def test_parameters_beside_a_network_are_new_and_those_within_it_act_at_the_input():
    vit = Made(
        patch=nn.Conv2d(3, 4, 2), blocks=blocks(), head=nn.Linear(4, 2), cls_token=nn.Parameter(torch.ones(1, 1, 4))
    )
    assert "cls_token" in groups_of(vit)["patch"]
    module = Made(net=vit, loss_weights=nn.Parameter(torch.ones(3)))
    assert "loss_weights" in head_of(module)
    assert "net.cls_token" in groups_of(module)["patch"]


# -- the head ----------------------------------------------------------------------------------------------------------


def test_all_that_comes_after_the_last_block_is_the_head():
    net = Made(distilbert=text(), pre_classifier=nn.Linear(4, 4), classifier=nn.Linear(4, 2))
    assert {name.split(".")[0] for name in head_of(net)} == {"pre_classifier", "classifier", "distilbert"}
    plain = Made(net=Made(embed=nn.Embedding(3, 4), layers=blocks()), project=nn.Linear(4, 4), decide=nn.Linear(4, 2))
    assert head_of(plain) == {"project.weight", "project.bias", "decide.weight", "decide.bias"}


def test_what_transformers_does_not_call_the_base_is_new():
    neck = Made(layers=blocks(), out=nn.Linear(4, 4))
    net = Language(net=text(), neck=neck, qa_outputs=nn.Linear(4, 2))
    assert {name.split(".")[0] for name in head_of(net)} == {"net", "neck", "qa_outputs"}
    assert "neck.layers.0.0.weight" in head_of(net)


@pytest.mark.parametrize("kind", [Made, Language])
def test_the_decoder_of_a_language_model_is_pretrained_and_that_of_anything_else_is_new(kind):
    halves = {half: Made(embed_tokens=nn.Embedding(9, 4), block=blocks(2)) for half in ("encoder", "decoder")}
    net = kind(shared=nn.Embedding(9, 4), **halves, lm_head=nn.Linear(4, 9, bias=False))
    for half in halves.values():
        half.embed_tokens.weight = net.shared.weight
    net.lm_head.weight = net.shared.weight
    found = groups_of(net)
    if kind is Language:
        assert [*found][1:] == ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]
        assert num_head_groups(layer_groups(net)) == 1
    else:
        assert [*found][1:] == ["encoder.block.0", "encoder.block.1", "decoder"]
    assert found[next(iter(found))] == {"shared.weight"}


def test_a_decoder_alone_is_the_body():
    net = Made(embed=nn.Embedding(9, 4), decoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 8), 3))
    net.out = nn.Linear(4, 9)
    assert [*groups_of(net)] == ["embed", *(f"decoder.layers.{i}" for i in range(3)), "out"]


def test_everything_after_a_backbone_is_new():
    net = Made(
        backbone=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), neck=nn.Linear(4, 4), decoder=layer()
    )
    assert {name.split(".")[0] for name in head_of(net)} == {"neck", "decoder"}


@pytest.mark.parametrize(
    "name",
    [
        "out",
        "last_layer",
        "fc",
        "heads",
        "output",
        "AuxLogits",
        "aux2",
        "cls_head",
        "lm_head",
        "qa_outputs",
        "class_embed",
    ],
)
def test_heads_are_known_by_their_names_wherever_they_are_declared(name):
    assert [*groups_of(Made(**{name: nn.Linear(4, 2)}, body=Made(a=layer(), b=layer())))][-1] == name


def test_frozen_layers_do_not_take_part_in_the_order():
    net = Made(bert=text(), classifier=nn.Linear(4, 2), loss=text().requires_grad_(False))
    net.bert.embeddings.requires_grad_(False)
    assert [*groups_of(net)] == [*(f"bert.encoder.whatever.{i}" for i in range(3)), "head"]


def test_the_heads_of_a_frozen_body_stay_together():
    """Else what is new before the last of them would not train with it."""
    net = Made(backbone=text(), neck=Made(fpn=nn.Linear(4, 4)), rpn=nn.Linear(4, 4), roi_heads=nn.Linear(4, 2))
    net.neck.requires_grad_(False)
    net.backbone.requires_grad_(False)
    assert [*groups_of(net)] == ["head"]
    assert head_of(net) == {"rpn.weight", "rpn.bias", "roi_heads.weight", "roi_heads.bias"}
    assert [*groups_of(Made(rpn=nn.Linear(4, 4), roi_heads=nn.Linear(4, 2)))] == ["rpn", "roi_heads"], "all there is"


def test_an_encoder_that_is_declared_after_a_decoder_acts_before_it():
    """As the encoder of the task of OneFormer: the heads within the decoder end the network."""
    transformer = nn.ModuleDict({"decoder": Made(layers=blocks(), class_embed=nn.Linear(4, 2))})
    found = groups_of(Made(pixels=text(), transformer=transformer, task_encoder=Made(layers=blocks())))
    assert [*found][-2:] == ["transformer.decoder.layers.2", "transformer.decoder.class_embed"]


def test_what_ends_in_a_head_goes_on_from_the_layers_before_it():
    """As the update of RAFT, which is recurrent: its head is new, and all before it is the body."""
    update = Made(motion=nn.Conv2d(4, 4, 3), flow_head=nn.Conv2d(4, 2, 3))
    net = Made(encoder=Made(layers=blocks()), update=update, mask_predictor=nn.Conv2d(4, 2, 1))
    assert {name.rpartition(".")[0] for name in head_of(net)} == {"update.flow_head", "mask_predictor"}


def test_a_table_after_a_pretrained_network_acts_at_its_input_if_its_name_says_so():
    """As the table of the Byte Latent Transformer, which holds most of its parameters."""
    net = Language(net=Language(body=text(), hash_tok_embedding=nn.Embedding(9, 4)), lm_head=nn.Linear(4, 9))
    assert "net.hash_tok_embedding.weight" not in head_of(net)


# -- real ones ---------------------------------------------------------------------------------------------------------

DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {
        "backbone.fpn",
        "rpn.head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
    },
    "maskrcnn_resnet50_fpn": {
        *("backbone.fpn", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_head"),
        "roi_heads.mask_predictor",
    },
    "retinanet_resnet50_fpn": {"backbone.fpn", "head.classification_head", "head.regression_head"},
    "ssd300_vgg16": {"backbone.extra", "head.classification_head", "head.regression_head"},
    "ssdlite320_mobilenet_v3_large": {"backbone.extra", "head.classification_head", "head.regression_head"},
    "deeplabv3_mobilenet_v3_large": {"classifier", "aux_classifier"},
    "fcn_resnet50": {"classifier", "aux_classifier"},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_all_that_is_new_in_a_detector_or_segmenter_of_torchvision_is_its_head(name):
    options = {"aux_loss": True} if "segmentation" in torchvision.models.get_model_builder(name).__module__ else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)
    depth = 1 if options else 2
    assert {".".join(param.split(".")[:depth]) for param in head_of(model)} == DETECTORS[name]
    assert len(groups_of(model)) >= 6


@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("vit_b_16", "encoder.layers.encoder_layer_", 12),
        ("maxvit_t", "blocks.", 4),
        ("swin_t", "features.", 8),
        ("shufflenet_v2_x0_5", "stage", 3),
        ("efficientnet_b0", "features.", 9),
        ("densenet121", "features.denseblock", 4),
        ("mnasnet0_5", "layers.", 10),
    ],
)
def test_bodies_of_torchvision_are_split(name, part, count):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    found = [*groups_of(model)]
    assert len([group for group in found if group.startswith(part)]) == count
    assert found[-1] in ("fc", "classifier", "heads", "head")


def test_a_regnet_is_its_stages():
    model = torchvision.models.regnet_y_400mf()
    assert [*groups_of(model)] == ["stem", *(f"trunk_output.block{i}" for i in range(1, 5)), "fc"]


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_the_update_of_raft_is_the_body_before_its_head(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    assert {".".join(param.split(".")[:2]) for param in head_of(model)} - {"mask_predictor.conv"} <= {
        "update_block.flow_head",
        "mask_predictor.convrelu",
    }
    assert [*groups_of(model)][-3:-1] == ["update_block.motion_encoder", "update_block.recurrent_block"]


@pytest.mark.parametrize("trained", [["decoder", "segmentation_head"], ["segmentation_head"]])
def test_a_segmenter_whose_encoder_is_frozen_has_groups(trained):
    """As torchgeo's `freeze_backbone=True` makes it."""
    model = smp.Unet("resnet18", encoder_weights=None)
    for name, part in model.named_children():
        part.requires_grad_(name in trained)
    assert {name.split(".")[0] for name in head_of(model)} == set(trained)
    assert len(groups_of(model)) == len(trained)


@pytest.mark.parametrize("encoder", ["efficientnet-b0", "mobilenet_v2", "tu-convnext_atto"])
def test_encoders_of_segmenters_are_split(encoder):
    with torch.device("meta"):
        model = smp.create_model("FPN", encoder, encoder_weights=None, classes=3)
    assert len(groups_of(model)) >= 7
    assert {name.split(".")[0] for name in head_of(model)} == {"decoder", "segmentation_head"}


def test_stages_of_a_mix_transformer_have_their_patches():
    model = smp.create_model("Unet", "mit_b0", encoder_weights=None, classes=3)
    found = groups_of(model)
    assert [*found][:4] == [f"encoder.block{i}" for i in range(1, 5)]
    assert any("patch_embed3" in name for name in found["encoder.block3"])


@pytest.mark.parametrize("name", ["rdnet_tiny", "deit_tiny_distilled_patch16_224"])
def test_timm_models_of_one_granularity_or_two_heads_are_known_too(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=5)
    assert len(groups_of(model)) >= 5
    assert {param.split(".")[0] for param in head_of(model)} <= {"head", "head_dist"}
