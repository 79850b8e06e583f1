"""What tests ask about layer groups."""

from torch import nn

from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups


def groups_of(module: nn.Module, patterns=None) -> dict[str, set[str]]:
    """Names of parameters by group, after checking that each is in one, and each group in the module's order."""
    given = {id(param): name for name, param in module.named_parameters() if param.requires_grad}
    places = {key: place for place, key in enumerate(given)}
    groups = layer_groups(module, patterns)
    assert sorted(id(param) for group in groups for param in group.params) == sorted(given)
    for group in groups:
        assert [places[id(param)] for param in group.params] == sorted(places[id(param)] for param in group.params)
    found = {group.name: {given[id(param)] for param in group.params} for group in groups}
    assert len(found) == len(groups)
    return found


def names(module: nn.Module, patterns=None) -> list[str]:
    return [*groups_of(module, patterns)]


def head_of(module: nn.Module) -> set[str]:
    """Names of the parameters that train first."""
    groups = groups_of(module)
    return set().union(*list(groups.values())[-num_head_groups(layer_groups(module)) :])
