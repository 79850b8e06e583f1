import pytest
import timm
import torch
from torch import nn

from lightning_finetune.engine.head_doubts import doubt_by_gradients, doubt_by_size, head_doubts
from lightning_finetune.engine.layer_groups import layer_groups


def blocks(count: int = 3) -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(count)))


class Declared(nn.Module):
    """Layers that are called in the order given, and declared in another."""

    def __init__(self, order: list[str], **layers: nn.Module) -> None:
        super().__init__()
        self.order = order
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def doubt(net: nn.Module, x=None) -> str | None:
    doubts = head_doubts(net, layer_groups(net))
    assert next(doubts) is None
    net(torch.randn(2, 4) if x is None else x)
    return next(doubts)


def test_a_last_layer_that_is_declared_first_is_seen_when_it_is_called():
    net = Declared(["encoder", "verdict"], verdict=nn.Linear(4, 2), encoder=blocks())
    assert layer_groups(net)[-1].name == "encoder.2"
    assert "'encoder.2' was taken for the head, but the network calls these layers after it:\n  verdict\n" in doubt(net)


def test_names_that_say_so_put_the_head_last():
    net = Declared(["encoder", "out"], out=nn.Linear(4, 2), encoder=blocks())
    assert [group.name for group in layer_groups(net)][-1] == "out"
    assert doubt(net) is None


def test_what_is_called_in_the_order_of_its_groups_is_not_doubted():
    assert doubt(Declared(["stem", "body", "fc"], stem=nn.Linear(4, 4), body=blocks(), fc=nn.Linear(4, 2))) is None
    assert doubt(Declared(["a", "b", "a"], a=nn.Linear(4, 4), b=nn.Linear(4, 4))) is None, "called again, not late"
    tied = Declared(["embed", "body", "lm_head"], embed=nn.Linear(4, 4), body=blocks(), lm_head=nn.Linear(4, 4, False))
    tied.lm_head.weight = tied.embed.weight
    assert doubt(tied) is None, "a tied layer says nothing of its place"


def test_watching_leaves_no_hook_and_no_trace_in_a_compiled_graph():
    net = Declared(["body", "fc"], body=blocks(), fc=nn.Linear(4, 2))
    compiled = torch.compile(net, backend="eager")
    doubts = head_doubts(net, layer_groups(net))
    assert next(doubts) is None
    compiled(torch.randn(2, 4))
    assert next(doubts) is None
    assert not any(layer._forward_pre_hooks for layer in net.modules())


@pytest.mark.parametrize(("name", "why"), [("decide", "because it comes last"), ("classifier", "because of its name")])
def test_a_head_of_most_parameters_is_doubted_whatever_its_name(name, why):
    net = Declared([], body=blocks(), **{name: nn.Linear(4, 100)})
    found = doubt_by_size(net, layer_groups(net))
    assert f"{name!r} was taken for the head, {why}, and holds 89% of the parameters" in found
    assert "groups=[...]" in found
    small = Declared([], body=blocks(), **{name: nn.Linear(4, 4)})
    assert doubt_by_size(small, layer_groups(small)) is None


def test_a_network_that_says_itself_what_its_head_is_is_not_doubted():
    net = timm.create_model("test_resnet", num_classes=5000)
    assert layer_groups(net)[-1].num_params > sum(group.num_params for group in layer_groups(net)[:-1])
    assert doubt_by_size(net, layer_groups(net)) is None
    features = Declared([], net=timm.create_model("test_resnet", num_classes=0), head=nn.Linear(96, 5000))
    assert "'head' was taken" in doubt_by_size(features, layer_groups(features)), "one beside it is a guess"


def test_a_head_on_which_the_loss_does_not_depend_is_doubted():
    net = Declared(["body", "fc"], body=blocks(), fc=nn.Linear(4, 2), copy=nn.Linear(4, 2))
    groups = layer_groups(net, ["body", "fc", "copy"])
    net(torch.randn(2, 4)).sum().backward()
    assert "'copy' was taken for the head, but the loss does not depend on it" in doubt_by_gradients(groups)
    assert doubt_by_gradients(groups[:-1]) is None
    net.copy.requires_grad_(False)
    assert doubt_by_gradients(groups) is None, "it does not train"
