import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.norms import is_norm
from lightning_finetune.errors import LayerGroupError
from tests.engine.groups.grouping import head_of, names
from tests.foreign import ForeignNet

TIMM = [
    "resnet18",
    "convnext_atto",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "densenet121",
    "regnetx_002",
    "deit_tiny_distilled_patch16_224",
]


class Wrapped(nn.Module):
    """As a user's LightningModule holds a model, beside things without parameters."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()
        self.net = net


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_end_with_their_classifier(name):
    model = timm.create_model(name, num_classes=5)
    assert len(names(model)) >= 4
    assert names(model)[-1] == "head"
    heads = model.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    expected = {id(param) for head in heads for param in head.parameters()}
    assert {id(param) for param in layer_groups(model)[-1].params} >= expected


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_timm_groups_run_from_the_input_to_the_head(name):
    model = timm.create_model(name, num_classes=5)
    stages = [group for group in names(model) if group[-1].isdigit()]
    assert stages == sorted(stages, key=lambda stage: int("".join(filter(str.isdigit, stage))))
    assert len(stages) >= 3
    assert "pos_embed" not in head_of(model)
    assert {id(p) for p in layer_groups(model)[0].params} >= {
        id(p) for n, p in model.named_parameters() if n in ("cls_token", "pos_embed", "patch_embed.proj.weight")
    }


@pytest.mark.parametrize("name", ["shvit_s1", "efficientvit_m0"])
def test_a_timm_body_that_asks_for_its_lost_classifier_has_the_same_groups(name):
    body, whole = timm.create_model(name, num_classes=0), timm.create_model(name, num_classes=2)
    names = [group.name for group in layer_groups(body)]
    assert names == [group.name for group in layer_groups(whole)][: len(names)]
    assert len(names) >= 3


def test_a_timm_body_without_classifier_still_has_three():
    assert len(names(timm.create_model("resnet18", num_classes=0))) >= 3


def test_torchvision_resnet_is_its_stages():
    found = names(torchvision.models.resnet18())
    assert found == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]  # bn1 goes with conv1


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "efficientnet-b0"])
def test_the_head_of_a_unet_is_its_decoder_and_its_head(encoder):
    model = smp.Unet(encoder, encoder_weights=None, classes=3)
    found = names(model)
    assert found[-2:] == ["decoder", "head"]
    assert len(found) >= 4
    assert head_of(model) == {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    assert head_of(Wrapped(model)) == {f"net.{name}" for name in head_of(model)}


def test_the_classes_of_a_unet_are_part_of_its_head():
    model = smp.Unet("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 2})
    assert any(name.startswith("classification_head") for name in head_of(model))


def test_a_wrapped_model_has_the_groups_of_the_model():
    model = timm.create_model("resnet18", num_classes=5)
    assert names(Wrapped(model)) == names(model)
    assert names(Wrapped(Wrapped(model))) == names(model)


@pytest.mark.parametrize("make", [lambda: timm.create_model("resnet18"), torchvision.models.resnet18])
def test_a_compiled_model_has_the_groups_of_the_model(make):
    model = make()
    expected = names(model)
    assert names(torch.compile(model)) == expected
    assert names(Wrapped(torch.compile(model))) == expected


def test_a_backbone_and_a_head_are_expanded_to_three():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)  # registered first, and yet the head
            self.backbone = torchvision.models.resnet18()

    found = names(Two())
    assert found[0] == "backbone.conv1"
    assert found[-1] == "head"


def test_any_module_is_grouped_by_its_children():
    assert names(ForeignNet()) == ["stem", "body", "neck", "head"]
    assert names(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))) == ["0", "3"]
    assert names(nn.Linear(2, 2)) == ["weight"]


def test_parameters_of_no_child_act_at_the_input():
    net = ForeignNet()
    net.token = nn.Parameter(torch.zeros(3))
    assert any(param is net.token for param in layer_groups(net)[0].params)


def test_tied_parameters_are_in_the_earlier_group_only():
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    net[2].weight = net[0].weight
    assert names(net) == ["0", "1", "2"]
    first, _, last = layer_groups(net)
    assert first.params == (net[0].weight,)
    assert last.params == (net[2].bias,)


def test_two_norm_layers_of_equal_values_are_two():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    assert torch.equal(net[1].weight, net[3].weight)
    first, second, _ = layer_groups(net)
    assert net[1].weight in set(first.params)
    assert net[3].weight in set(second.params)
    assert names(net) == ["0", "2", "4"]


# -- patterns ----------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))


def test_a_pattern_matches_whole_components():
    rest, one = layer_groups(Deep(), [r"layers.1"])
    assert [group.name for group in (rest, one)] == ["rest", "layers.1"]
    assert len(one.params) == 2
    assert len(rest.params) == 22


def test_patterns_are_regular_expressions_in_the_users_order():
    net = Deep()
    first, mid, last = layer_groups(net, [r"layers\.[0-3]", r"layers\.[4-9]", r"layers\.1[01]"])
    assert [len(group.params) for group in (first, mid, last)] == [8, 12, 4]
    assert names(net, [r"layers\.1[01]", "layers.0"]) == ["rest", r"layers\.1[01]", "layers.0"]


def test_patterns_go_before_what_the_module_is_known_to_be():
    model = timm.create_model("resnet18", num_classes=5)
    assert names(model, ["conv1|bn1|layer[12]", "layer[34]", "fc"])[-1] == "fc"
    assert len(layer_groups(model, ["conv1|bn1|layer[12]", "layer[34]", "fc"])) == 3


def test_patterns_see_through_compile():
    assert names(Wrapped(torch.compile(Deep())), ["net.layers.0"]) == ["rest", "net.layers.0"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layers.12"], r"'layers.12' .* matches no parameter.*Did you mean 'layers\."),
        (["ayers.1"], "matches no parameter"),
        (["layers.1", "layers"], "'layers.1.weight' matches several"),
        (["layers.(1"], "regular expression"),
        ([], "list of name patterns"),
        ("layers.1", "list of name patterns"),
    ],
)
def test_patterns_that_cannot_be_are_refused(patterns, message):
    with pytest.raises(LayerGroupError, match=message):
        layer_groups(Deep(), patterns)


# -- the module's own word ---------------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self, give) -> None:
        super().__init__()
        self.early, self.late, self.token = nn.Linear(2, 2), nn.Linear(2, 2), nn.Parameter(torch.zeros(2))
        self.give = give

    def layer_groups(self):
        return self.give(self)


def test_a_module_may_say_its_groups_itself():
    net = Own(lambda self: {"late": [self.late, self.token], "early": self.early})
    assert names(net) == ["late", "early"]
    assert names(Wrapped(net)) == ["late", "early"]
    assert names(torch.compile(net)) == ["late", "early"]
    assert names(Own(lambda self: [[self.early, self.token], [self.late.parameters()]])) == ["group_0", "group_1"]


def test_groups_of_its_own_may_share_what_is_tied():
    net = Own(lambda self: {"early": [self.early, self.token], "late": self.late})
    net.late.weight = net.early.weight
    assert [len(group.params) for group in layer_groups(net)] == [3, 1]


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda self: {"early": self.early, "late": self.late}, "(?s)In no group:.*token"),
        (lambda self: {"early": [self.early, self.token], "late": [self.late, self.early.bias]}, "(?s)two.*early.bias"),
        (lambda self: {"all": [self.early, self.late, self.token, nn.Linear(1, 1)]}, "2 parameters are not of this"),
    ],
)
def test_groups_of_its_own_that_are_not_exact_are_refused(give, message):
    with pytest.raises(LayerGroupError, match=message):
        layer_groups(Own(give))


def test_a_module_without_parameters_is_refused():
    with pytest.raises(LayerGroupError, match="ReLU without any"):
        layer_groups(nn.ReLU())


def test_norm_layers_of_any_package_are_known():
    class OwnNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    norms = [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3), OwnNorm()]
    assert all(map(is_norm, norms))
    assert is_norm(timm.layers.BatchNormAct2d(3))
    assert is_norm(timm.layers.LayerNorm2d(3))
    assert not any(map(is_norm, [nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(3)), nn.PReLU(), nn.Dropout()]))
