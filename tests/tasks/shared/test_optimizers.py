from functools import partial

import pytest
from torch import nn
from torch.optim import SGD, AdamW, RMSprop

from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.param_groups import build
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.shared.optimizers import build_optimizer, fastai_adam


def make(optimizer, lr=3e-3, weight_decay=1e-2):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    groups = build(layer_groups(net), lr=lr, weight_decay=weight_decay)
    return build_optimizer(optimizer, groups, lr=lr, weight_decay=weight_decay)


def test_default_follows_the_lessons():
    optimizer = make(fastai_adam)
    assert isinstance(optimizer, AdamW)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (3e-3, (0.9, 0.99), 1e-5)
        assert group["weight_decay"] == (0.0 if group["name"].endswith("no_decay") else 1e-2)


def test_another_optimizer_keeps_its_own_settings():
    optimizer = make(partial(SGD, momentum=0.8, nesterov=True), lr=0.5)
    assert all((g["lr"], g["momentum"], g["nesterov"]) == (0.5, 0.8, True) for g in optimizer.param_groups)


@pytest.mark.parametrize(("setting", "name"), [({"lr": 0.2}, "lr"), ({"weight_decay": 0.3}, "weight_decay")])
def test_a_setting_given_twice_is_refused(setting, name):
    with pytest.raises(FinetuneError, match=rf"`{name}` once, got {setting[name]} in `optimizer`"):
        make(partial(AdamW, **setting))


def test_the_same_setting_twice_is_no_conflict():
    made = make(partial(AdamW, lr=0.2, weight_decay=0.3), lr=0.2, weight_decay=0.3)
    assert {group["lr"] for group in made.param_groups} == {0.2}


def test_fused_kernels_are_taken_only_where_nothing_else_was_asked():
    assert all(group["fused"] for group in make(fastai_adam).param_groups)
    assert not any(group["fused"] for group in make(partial(AdamW, fused=False)).param_groups)
    assert not any(group["fused"] for group in make(partial(AdamW, foreach=True)).param_groups)
    assert all("fused" not in group for group in make(RMSprop).param_groups)
