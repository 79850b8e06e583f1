import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_finetune.engine.layer_groups import LayerGroup, layer_groups
from lightning_finetune.engine.param_groups import build, merge_state, rate_of, set_rates, split, split_state
from lightning_finetune.errors import LayerGroupError, UnsupportedError
from tests.foreign import ForeignNet, images


def owned(optimizer) -> list[int]:
    return [id(param) for group in optimizer.param_groups for param in group["params"]]


def step(net: nn.Module, optimizer: torch.optim.Optimizer, times: int = 2) -> None:
    x, y = images(8).tensors
    net.eval()
    for _ in range(times):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def test_norms_and_biases_are_not_decayed_in_any_layer_group():
    net = ForeignNet()
    built = build(layer_groups(net), lr=1e-3, weight_decay=0.1)
    for group in built:
        assert {param.ndim < 2 for param in group["params"]} == {group["weight_decay"] == 0}
    decayed = {group["name"] for group in built if group["weight_decay"] == 0.1}
    assert decayed == {"stem", "body", "neck", "head"}
    assert len({group["name"] for group in built}) == len(built) == 8
    assert sorted(owned(torch.optim.AdamW(built))) == sorted(map(id, net.parameters()))


def test_splitting_keeps_every_hyper_parameter():
    net = ForeignNet()
    optimizer = torch.optim.AdamW(
        [
            {"params": net.stem.parameters(), "weight_decay": 0.3, "lr": 1e-4, "custom": "x"},
            {"params": [*net.body.parameters(), *net.neck.parameters(), *net.head.parameters()], "eps": 1e-5},
        ],
        lr=1e-2,
        betas=(0.8, 0.9),
        amsgrad=True,
    )
    layout = split(optimizer, layer_groups(net))
    assert [group["name"] for group in optimizer.param_groups] == ["stem/pg0", "body/pg1", "neck/pg1", "head/pg1"]
    assert layout.layers == (0, 1, 2, 3)
    first, *others = optimizer.param_groups
    assert (first["weight_decay"], first["lr"], first["custom"]) == (0.3, 1e-4, "x")
    for group in others:
        assert (group["eps"], group["lr"], group["weight_decay"]) == (1e-5, 1e-2, 0.01)
    assert all(group["betas"] == (0.8, 0.9) and group["amsgrad"] for group in optimizer.param_groups)
    assert sorted(owned(optimizer)) == sorted(map(id, net.parameters()))


def test_groups_that_cut_across_layers_are_split_by_both():
    net = ForeignNet()
    decayed = [param for param in net.parameters() if param.ndim >= 2]
    plain = [param for param in net.parameters() if param.ndim < 2]
    groups = [{"params": decayed, "name": "decay"}, {"params": plain, "name": "plain", "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    layout = split(optimizer, layer_groups(net))
    assert layout.layers == (0, 1, 2, 3, 0, 1, 2, 3)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.1 if group["name"].endswith("/decay") else 0.0)


def test_an_optimizer_that_is_grouped_by_layers_is_left_as_it_is():
    net = ForeignNet()
    optimizer = torch.optim.AdamW(build(layer_groups(net), lr=1e-3, weight_decay=0.1))
    before = [(group["name"], list(map(id, group["params"]))) for group in optimizer.param_groups]
    layout = split(optimizer, layer_groups(net))
    assert layout.original is None
    assert layout.layers == (0, 0, 1, 1, 2, 2, 3, 3)
    assert before == [(group["name"], list(map(id, group["params"]))) for group in optimizer.param_groups]
    again = split(optimizer, layer_groups(net))
    assert again == layout


def test_a_split_optimizer_steps_as_one_that_is_not():
    torch.manual_seed(0)
    one = ForeignNet(dropout=0.0)
    other = copy.deepcopy(one)
    plain, ours = (torch.optim.AdamW(net.parameters(), lr=1e-2) for net in (one, other))
    split(ours, layer_groups(other))
    step(one, plain)
    step(other, ours)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_of_no_layer_group_are_refused():
    net = ForeignNet()
    optimizer = torch.optim.SGD([*net.parameters(), nn.Parameter(torch.zeros(7, 3))], lr=0.1)
    with pytest.raises(LayerGroupError, match=r"(?s)1 parameters that are not the module's.*\(7, 3\)"):
        split(optimizer, layer_groups(net))


def test_splitting_keeps_the_state_that_is_there():
    torch.manual_seed(0)
    net = ForeignNet()
    optimizer = torch.optim.AdamW(net.parameters())
    step(net, optimizer)
    before = {param: value["exp_avg"].clone() for param, value in optimizer.state.items()}
    split(optimizer, layer_groups(net))
    assert len(optimizer.param_groups) == 4
    for param in net.parameters():
        assert torch.equal(optimizer.state[param]["exp_avg"], before[param])


def test_frozen_parameters_of_no_layer_group_stay_in_the_optimizer():
    net = ForeignNet("sgd")
    net.stem.requires_grad_(False)
    optimizer = net.configure_optimizers()
    layout = split(optimizer, layer_groups(net))
    assert layout.layers == (0, 1, 2)
    held = [{id(param) for param in group["params"]} for group in optimizer.param_groups]
    assert held[0] == {id(param) for part in (net.body, net.stem) for param in part.parameters()}
    merged = merge_state(optimizer.state_dict(), optimizer, layout)
    assert merged["param_groups"][0]["params"] == list(range(14))


def test_the_rate_of_a_group_of_frozen_parameters_alone_is_left_alone():
    net = ForeignNet()
    net.stem.requires_grad_(False)
    rest = [param for param in net.parameters() if param.requires_grad]
    optimizer = torch.optim.SGD([{"params": net.stem.parameters(), "lr": 5.0}, {"params": rest, "lr": 1.0}])
    layout = split(optimizer, layer_groups(net))
    assert layout.layers == (None, 0, 1, 2)
    set_rates(optimizer, layout, [0.1, 0.2, 0.3], None)
    assert [group["lr"] for group in optimizer.param_groups] == [5.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rates_go_to_every_group_of_a_layer_and_momentum_to_all(kind):
    net = ForeignNet(kind)
    optimizer = net.configure_optimizers()
    layout = split(optimizer, layer_groups(net))
    set_rates(optimizer, layout, (1e-5, 1e-4, 1e-3, 1e-2), 0.7)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-4, 1e-3, 1e-2]
    for group in optimizer.param_groups:
        assert (group["betas"] == (0.7, 0.999)) if kind == "adamw" else (group["momentum"] == 0.7)
    set_rates(optimizer, layout, None, None)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-4, 1e-3, 1e-2]


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    net = ForeignNet()
    optimizer = torch.optim.AdamW(build(layer_groups(net), lr=1e-3, weight_decay=0.1))
    tensors = []
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
        tensors.append(group["lr"])
    set_rates(optimizer, split(optimizer, layer_groups(net)), (1.0, 2.0, 3.0, 4.0), 0.9)
    assert [float(tensor) for tensor in tensors] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))


def test_optimizers_without_momentum_are_left_alone():
    net = ForeignNet()
    optimizer = torch.optim.Adagrad(net.parameters())
    set_rates(optimizer, split(optimizer, layer_groups(net)), (1e-3,) * 4, 0.9)
    assert all("momentum" not in group and "betas" not in group for group in optimizer.param_groups)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def regrouped(net: ForeignNet):
    """An optimizer whose two groups are neither in the module's order nor in ours."""
    groups = [
        {"params": [*net.head.parameters(), *net.stem.parameters()], "weight_decay": 0.2},
        {"params": [*net.neck.parameters(), *net.body.parameters()]},
    ]
    return torch.optim.AdamW(groups, lr=1e-2)


def test_layers_that_never_trained_have_no_state_and_need_none():
    torch.manual_seed(0)
    net = ForeignNet()
    ours = regrouped(net)
    layout = split(ours, layer_groups(net))
    for name in ("stem", "body"):
        getattr(net, name).requires_grad_(False)
    step(net, ours)
    plain = regrouped(net)
    plain.load_state_dict(merge_state(ours.state_dict(), ours, layout))
    assert {id(param) for param in plain.state} == {id(p) for p in [*net.neck.parameters(), *net.head.parameters()]}


def test_a_state_that_needs_no_merging_is_returned_as_it_is():
    net = ForeignNet()
    optimizer = torch.optim.AdamW(build(layer_groups(net), lr=1e-3, weight_decay=0.1))
    layout = split(optimizer, layer_groups(net))
    state = optimizer.state_dict()
    assert merge_state(state, optimizer, layout) == state == split_state(state, optimizer, layout)


def test_an_optimizer_with_one_group_for_all_is_refused_by_name():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with pytest.raises(UnsupportedError, match="LBFGS"):
        split(torch.optim.LBFGS(net.parameters()), layer_groups(net))


def test_a_rate_that_the_device_holds_is_copied_there():
    group = {"lr": torch.tensor(0.5)}
    before = rate_of(group)
    group["lr"].fill_(0.25)
    assert (float(before), float(rate_of(group)), rate_of({"lr": 0.125})) == (0.5, 0.25, 0.125)
    assert rate_of({"lr": torch.tensor(0.5, device="meta")}).is_meta


@pytest.mark.parametrize("flat", [False, True])
def test_a_tensor_as_rate_is_not_shared_by_the_groups(flat):
    """torch gives every parameter group the tensor that it was given; each must have its own rate all the same."""
    net = ForeignNet()
    given = torch.tensor(1e-2)
    params = (
        net.parameters()
        if flat
        else [{"params": [*part.parameters()]} for part in (net.stem, net.body, net.neck, net.head)]
    )
    optimizer = torch.optim.AdamW(params, lr=given)
    layout = split(optimizer, layer_groups(net))
    set_rates(optimizer, layout, [1e-4, 1e-3, 5e-3, 1e-2], None)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-3, 5e-3, 1e-2])
    assert float(given) == pytest.approx(1e-2)
    optimizer.load_state_dict(
        {**optimizer.state_dict(), "param_groups": [{**g, "lr": given} for g in optimizer.state_dict()["param_groups"]]}
    )
    set_rates(optimizer, layout, [1e-4, 1e-3, 5e-3, 2e-2], None)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-3, 5e-3, 2e-2])
    assert all(isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups)


def test_a_state_that_is_numbered_as_the_module_has_its_parameters_stays_so():
    """As of shards, which Lightning numbers; the optimizer holds them in another order."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([*second.parameters(), *first.parameters()])
    groups = [LayerGroup("first", tuple(first.parameters())), LayerGroup("second", tuple(second.parameters()))]
    layout = split(optimizer, groups)
    state = {"state": {place: {"step": place} for place in range(4)}, "param_groups": []}
    merged = merge_state(state, optimizer, layout, [*first.parameters(), *second.parameters()])
    assert merged["state"] == state["state"]
    assert [group["params"] for group in merged["param_groups"]] == [[2, 3, 0, 1]]
