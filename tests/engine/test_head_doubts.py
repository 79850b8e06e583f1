import pytest
import torch
from torch import nn

from lightning_finetune.engine.head_doubts import CallOrder, doubt_by_size
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
    order = CallOrder(net, layer_groups(net))
    net(torch.randn(2, 4) if x is None else x)
    order.stop()
    return order.doubt()


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
    order = CallOrder(net, layer_groups(net))
    compiled(torch.randn(2, 4))
    assert order.doubt() is None
    order.stop()
    assert not any(layer._forward_pre_hooks for layer in net.modules())


@pytest.mark.parametrize(("name", "doubted"), [("decide", True), ("classifier", False)])
def test_a_head_of_most_parameters_is_doubted_unless_its_name_says_that_it_is_one(name, doubted):
    net = Declared([], body=blocks(), **{name: nn.Linear(4, 100)})
    found = doubt_by_size(layer_groups(net))
    assert (found is not None) is doubted
    if doubted:
        assert "'decide' was taken for the head" in found
        assert "holds 89% of the parameters" in found
        assert "groups=[...]" in found
    assert doubt_by_size(layer_groups(net, ["body", name])) is None, "the user said it"
