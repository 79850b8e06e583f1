"""Whatever a step changes, however it is held, is as it was before, and the objects are the same ones."""

import array
import collections
import copy
import functools
import itertools
import random
import sys
import weakref
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_finetune.engine.snapshot import preserved

CASES = {}


def case(function):
    """``function`` makes a module and gives a step that changes it, and what is seen of it."""
    CASES[function.__name__] = function
    return function


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


# -- tensors ---------------------------------------------------------------------------------------------------------


@case
def buffers_assigned_anew(net):
    net.register_buffer("steps", torch.zeros(()))
    net.register_buffer("queue", torch.zeros(1, 2))
    net.register_buffer("mean", None)
    alias = net.steps

    def step():
        net.steps = net.steps + 1
        net.queue = torch.cat([net.queue, torch.ones(1, 2)])
        net.mean = torch.ones(2)
        if not hasattr(net, "late"):
            net.register_buffer("late", torch.ones(1), persistent=False)

    return step, lambda: (dict(net.named_buffers()), net.mean, list(net._buffers), net.steps is alias)


@case
def parameters_replaced_and_added(net):
    first = net.layer.weight

    def step():
        net.layer.weight = nn.Parameter(torch.ones(2, 2))
        net.layer.register_parameter("extra", nn.Parameter(torch.ones(1)))
        net.added = nn.Linear(1, 1)

    return step, lambda: ([name for name, _ in net.named_parameters()], net.layer.weight is first)


@case
def data_pointed_elsewhere(net):
    shape = net.layer.weight.data

    def step():
        net.layer.weight.data = net.layer.weight.data.repeat(2, 1)

    return step, lambda: (net.layer.weight.detach().clone(), net.layer.weight.data_ptr() == shape.data_ptr())


@case
def tied_tensors(net):
    net.twin = net.layer.weight
    net.view = net.layer.weight.data[0]
    net.wide = torch.zeros(1).expand(3)

    def step():
        net.layer.weight.data.add_(1)
        net.wide._base.add_(1)

    def seen():
        return [value.detach().clone() for value in (net.twin, net.view, net.wide)], net.twin is net.layer.weight

    return step, seen


@case
def what_autograd_and_inference_left(net):
    net.hidden = net.layer.weight.sum()
    with torch.inference_mode():
        net.last = torch.ones(2)

    def step():
        net.hidden = net.hidden * 2
        with torch.inference_mode():
            net.last.add_(1)

    return step, lambda: (net.hidden.item(), net.hidden.requires_grad, net.last.detach().clone())


@case
def gradients_and_frozen_layers(net):
    net.layer.bias.grad = torch.ones(2)

    def step():
        net.layer.bias.grad.add_(1)
        net.layer.weight.grad = torch.ones(2, 2)
        net.layer.bias.requires_grad_(not net.layer.bias.requires_grad)
        net.layer.bias.marked = True

    def seen():
        weight, bias = net.layer.weight, net.layer.bias
        return bias.grad.detach().clone(), weight.grad, bias.requires_grad, vars(bias)

    return step, seen


# -- containers and attributes ----------------------------------------------------------------------------------------


@case
def plain_values_and_containers(net):
    net.count, net.losses, net.recent = 0, [0.5], collections.deque([1.0, 2.0], maxlen=2)
    net.words, net.seen, net.table = collections.Counter("ab"), {1}, {"a": [1, {"b": torch.zeros(1)}]}
    net.order, net.bytes, net.numbers = collections.OrderedDict(a=1, b=2), bytearray(b"ab"), array.array("d", [1.0])
    net.lazily = collections.defaultdict(list)
    alias = net.losses

    def step():
        net.count += 1
        net.losses.append(0.1)
        net.recent.append(3.0)
        net.words.update("bc")
        net.seen.add(len(net.seen) + 5)
        net.table["a"][1]["b"].add_(1)
        net.table["a"].append(4)
        net.order.move_to_end("a")
        net.order["c"] = 3
        net.bytes.extend(b"c")
        net.numbers.append(2.0)
        net.lazily["x"].append(1)

    names = ["count", "losses", "recent", "words", "seen", "table", "order", "bytes", "numbers", "lazily"]
    return step, lambda: ({name: getattr(net, name) for name in names}, list(net.order), alias is net.losses)


@case
def attributes_deleted_and_added(net):
    net.first = torch.ones(1)
    net.plain = 3

    def step():
        net.second = {"x": 1}
        for name in ("first", "plain"):
            if hasattr(net, name):
                delattr(net, name)

    return step, lambda: (hasattr(net, "second"), sorted(set(vars(net)) & {"first", "plain"}))


@dataclass
class Holder:
    shadow: torch.Tensor
    steps: int = 0
    nested: dict = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    shadow: torch.Tensor
    losses: list


class Slotted:
    __slots__ = ("__count", "free")

    def __init__(self):
        self.__count = 0

    def step(self):
        self.__count += 1
        self.free = 1

    def seen(self):
        return self.__count, hasattr(self, "free")


class Ema:
    """An average that knows the module, and that the module knows."""

    def __init__(self, net):
        self.net = net
        self.shadow = {name: value.detach().clone() for name, value in net.named_parameters()}
        self.updates = 0

    def update(self):
        self.updates += 1
        for name, value in self.shadow.items():
            self.shadow[name] = 0.9 * value + 1


@case
def objects_of_other_classes(net):
    net.holder, net.frozen, net.slotted = Holder(torch.zeros(2)), Frozen(torch.zeros(2), []), Slotted()
    net.ema = Ema(net)
    net.many = [{"inner": Holder(torch.zeros(1))}, (Holder(torch.ones(1)),)]

    def step():
        net.holder.shadow = net.holder.shadow + 1
        net.holder.nested["x"] = 1
        net.frozen.shadow.add_(1)
        net.frozen.losses.append(1)
        net.slotted.step()
        net.ema.update()
        net.many[0]["inner"].steps += 1
        net.many[1][0].shadow.mul_(3)

    def seen():
        holders = [vars(net.holder), vars(net.many[0]["inner"]), vars(net.many[1][0])]
        frozen = net.frozen.shadow.detach().clone(), net.frozen.losses
        return holders, frozen, net.slotted.seen(), net.ema.shadow, net.ema.updates

    return step, seen


@case
def functions_and_weak_references(net):
    target, steps = Holder(torch.zeros(1)), 0
    net.weak, net.table = weakref.ref(target), weakref.WeakKeyDictionary({target.shadow: 1})

    def count():
        nonlocal steps
        steps += 1
        count.calls = getattr(count, "calls", 0) + 1
        return steps

    net.count, net.partly, net.bound = count, functools.partial(print, target), target.nested.update

    def step():
        net.count()
        if net.weak() is target:
            net.weak().steps += 1
        net.table[target.shadow] = 2
        net.weak = weakref.ref(net)

    return step, lambda: (steps, vars(count), target.steps, net.weak() is target, list(net.table.values()))


@case
def hooks_with_a_memory(net):
    class Probe:
        means: list

        def __call__(self, *args):
            self.means.append(1.0)

    probe = Probe()
    probe.means = []
    net.layer.register_forward_hook(probe)
    return lambda: net.layer(torch.ones(1, 2)), lambda: probe.means


# -- random numbers and iterators --------------------------------------------------------------------------------------


@case
def generators_of_random_numbers(net):
    net.torch, net.numpy, net.python = torch.Generator().manual_seed(1), np.random.default_rng(1), random.Random(1)
    net.old = [np.random.RandomState(1)]

    def draw():
        drawn = torch.rand(1, generator=net.torch), net.numpy.random(), net.python.random(), net.old[0].rand()
        return [torch.rand(1), random.random(), np.random.rand(), *drawn]

    def seen():
        states = [net.torch.get_state(), net.numpy.bit_generator.state, net.python.getstate(), net.old[0].get_state()]
        return copy.deepcopy(states)

    return draw, seen


@case
def iterators(net):
    kinds = {"list": iter(list(range(9))), "range": iter(range(9))}
    if sys.version_info < (3, 14):
        kinds |= {
            "count": itertools.count(3),
            "cycle": itertools.cycle([1, 2]),
            "chain": itertools.chain([1, 2], iter([3, 4])),
            "islice": itertools.islice(itertools.count(), 9),
        }
    net.kinds = kinds
    net.own = kinds["list"]
    for iterator in kinds.values():
        next(iterator)

    def step():
        for iterator in net.kinds.values():
            next(iterator, None)

    def seen():
        copies = {name: copy.copy(value) for name, value in net.kinds.items() if name in ("list", "range", "count")}
        return {name: next(value) for name, value in copies.items()}, net.own is net.kinds["list"]

    return step, seen


class Hidden:
    """State that nothing but its two methods reaches."""

    _outside: ClassVar[dict] = {}

    def __init__(self, number):
        Hidden._outside[id(self)] = {"steps": 0, "mean": torch.zeros(1), "number": number}

    def step(self):
        state = Hidden._outside[id(self)]
        state["steps"] += 1
        state["mean"] = state["mean"] + 1

    def state_dict(self):
        return dict(Hidden._outside[id(self)])

    def load_state_dict(self, state):
        Hidden._outside[id(self)] = dict(state)


@case
def state_that_only_its_methods_know(net):
    net.hidden = [Hidden(1)]
    return net.hidden[0].step, net.hidden[0].state_dict


# -- the tests ---------------------------------------------------------------------------------------------------------


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("place", ["module", "optimizer", "data"])
@pytest.mark.parametrize("name", CASES)
def test_what_steps_change_is_put_back(name, place):
    """As attributes of a module, of an optimizer, and of a data set."""
    net, holder = Net(), Net()
    step, seen = CASES[name](net if place == "module" else holder)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.holder = [holder] if place == "optimizer" else []
    before = copy.deepcopy(seen())
    with preserved(net, optimizer, [{"set": holder}] if place == "data" else []):
        for _ in range(3):
            step()
        assert not same(copy.deepcopy(seen()), before), "the case changes nothing"
    assert same(copy.deepcopy(seen()), before)
    step()  # and it works as before


def test_the_optimizer_has_the_state_and_groups_that_it_had():
    net = Net()
    optimizer = torch.optim.AdamW([net.layer.weight], lr=torch.tensor(0.1), capturable=False)
    net.layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state[net.layer.weight]["exp_avg"]
    before = copy.deepcopy(optimizer.state_dict())
    with preserved(net, optimizer):
        optimizer.add_param_group({"params": [net.layer.bias], "lr": 3.0})
        optimizer.param_groups[0]["lr"].fill_(9.0)
        net.layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert same(copy.deepcopy(optimizer.state_dict()), before)
    assert optimizer.state[net.layer.weight]["exp_avg"] is state


def test_of_data_only_what_is_not_too_large_is_copied(monkeypatch):
    monkeypatch.setattr("lightning_finetune.engine.snapshot.DATA_BYTES", 1000)
    images, counts = torch.zeros(1000), torch.zeros(10)
    with preserved(Net(), torch.optim.SGD(Net().parameters(), lr=0.1), [{"images": images, "counts": counts}]):
        images.add_(1)
        counts.add_(1)
    assert int(counts.sum()) == 0
    assert int(images.sum()) == 1000
    net = Net()
    net.data = {"images": images}  # what a module holds is its own
    with preserved(net, torch.optim.SGD(net.parameters(), lr=0.1)):
        images.add_(1)
    assert int(images.sum()) == 1000


def test_a_loader_within_data_keeps_the_iterator_that_it_lends():
    """Persistent workers serve one iteration at a time."""
    loader = DataLoader(list(range(8)), batch_size=2, num_workers=1, persistent_workers=True)
    begun = iter(loader)
    first = next(begun)
    with preserved(Net(), torch.optim.SGD(Net().parameters(), lr=0.1), [{"inner": loader}]):
        assert next(batch.tolist() for batch in loader) == first.tolist()
    assert loader._iterator is begun
    assert [batch.tolist() for batch in begun] == [[2, 3], [4, 5], [6, 7]]


def test_what_is_not_changed_is_not_written():
    class Watched(dict):
        def clear(self):
            raise AssertionError

    net = Net()
    net.table = Watched(a=1)
    with preserved(net, torch.optim.SGD(net.parameters(), lr=0.1)):
        pass
    assert net.table == {"a": 1}
