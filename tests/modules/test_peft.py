"""Adapters of peft: the base stays what it was, to the bit; the adapters and what is saved beside them train."""

import lightning.pytorch as pl
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.callbacks import GradualUnfreezing
from lightning_finetune.engine.layer_groups import layer_groups
from tests.modules.published import NEEDS, bits, fit, frozen
from tests.modules.sizes import TEXT

peft = pytest.importorskip("peft", reason=NEEDS)
tf = pytest.importorskip("transformers", reason=NEEDS)


class Adapted(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        given, labels = batch
        out = self.model(given) if given.is_floating_point() else self.model(input_ids=given).logits
        return nn.functional.cross_entropy(out, labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def text_model(config) -> Adapted:
    torch.manual_seed(0)
    return Adapted(peft.get_peft_model(tf.BertForSequenceClassification(tf.BertConfig(**TEXT)), config))


def words() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (8, 6), generator=generator)
    return DataLoader(TensorDataset(ids, ids[:, 0] % 2), batch_size=4)


CONFIGS = {
    "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]),
    "ia3": lambda: peft.IA3Config(task_type="SEQ_CLS", target_modules=["key", "dense"], feedforward_modules=["dense"]),
    "prompts": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_base_of_an_adapter_is_not_trained(tmp_path, kind):
    module = text_model(CONFIGS[kind]())
    base, before = frozen(module), bits(module)
    assert len(base) > 50
    head, everything = fit(tmp_path, module, words())
    assert head == {name for name in head if any(part in name for part in ("modules_to_save", "prompt", "pooler"))}
    assert everything.isdisjoint(base)
    assert frozen(module) == base
    after = bits(module)
    assert all(torch.equal(before[name], after[name]) for name in base)
    if kind != "prompts":
        assert len({name.split(".layer.")[1][0] for name in everything if ".layer." in name}) == 3, "in every block"


def test_adapters_have_a_group_for_each_block():
    groups = layer_groups(text_model(CONFIGS["lora"]()))
    assert [group.name.rpartition(".")[2] for group in groups] == ["0", "1", "2", "classifier"]
    assert len(groups[0].params) == 4


def test_adapters_in_a_network_of_timm_have_the_groups_of_the_network(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=2, img_size=32)
    config = peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    module = Adapted(peft.get_peft_model(vit, config))
    assert [group.name for group in layer_groups(module)][-1] == "head"
    assert len(layer_groups(module)) == 1 + len(vit.blocks)
    base = frozen(module)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    data = DataLoader(TensorDataset(images, (images[:, 0].mean((1, 2)) > 0).long()), batch_size=4)
    head, everything = fit(tmp_path, module, data, GradualUnfreezing({0: "head", 1: "all"}), max_epochs=2)
    assert all("modules_to_save" in name for name in head)
    assert everything.isdisjoint(base)
    assert frozen(module) == base
