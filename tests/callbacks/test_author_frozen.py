"""What the author of a module froze, or kept out of the optimizer, is his: never trained, never switched, said once."""

import copy
import logging

import lightning.pytorch as pl
import pytest
import timm
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError
from tests.foreign import ForeignNet, StopAfter, bits, fitted, loader, quiet_trainer, settings

UNFREEZINGS = {
    "gradual": lambda **options: [GradualUnfreezing({0: "head", 1: "all"}, **options)],
    "fine_tune": lambda **options: [FineTune([Phase(1, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))], **options)],
    "apart": lambda **options: [OneCycle((1e-3, 1e-2)), GradualUnfreezing({0: "head", 1: "all"}, **options)],
}


class WithLossNetwork(ForeignNet):
    """A perceptual loss as they are written: a frozen network in eval mode, declared last, in the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.perceptual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
        self.perceptual.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + self.perceptual(batch[0] + self(batch[0]).mean()).square().mean()


class WithTeacher(ForeignNet):
    """A momentum copy in train mode, whose norm layers are its author's affair, as in BYOL and MoCo."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(nn.ModuleDict(dict(self.named_children()))).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.teacher["stem"](batch[0])
            for own, theirs in zip(self.stem.parameters(), self.teacher["stem"].parameters(), strict=True):
                theirs.lerp_(own, 0.1)
        return super().training_step(batch, batch_idx)


class PartlyFrozen(ForeignNet):
    """Early layers frozen by their author, norms in eval and kept there, as torchvision's detectors come."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)
        self.stem.eval()

    def train(self, mode: bool = True):
        super().train(mode)
        self.stem.eval()
        return self


class Frozen(ForeignNet):
    """Everything but the head frozen by hand, and all given to the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        for part in (self.stem, self.body, self.neck):
            part.requires_grad_(False)


class Look(pl.Callback):
    """The modes of all norm layers, and what has a gradient, at each step."""

    def __init__(self) -> None:
        self.modes: list[dict[str, bool]] = []
        self.grads: list[set[str]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        norms = {name: part for name, part in pl_module.named_modules() if isinstance(part, nn.BatchNorm2d)}
        self.modes.append({name: part.training for name, part in norms.items()})
        self.grads.append({name for name, param in pl_module.named_parameters() if param.requires_grad})


def same(before, after) -> bool:
    return all(torch.equal(value, after[name]) for name, value in before.items())


def fit(tmp_path, module, callbacks, **options) -> Look:
    pl.seed_everything(3, verbose=False)
    look = Look()
    quiet_trainer(tmp_path, callbacks=[*callbacks, look], **{"max_epochs": 2, **options}).fit(module, loader())
    return look


@pytest.mark.parametrize("which", UNFREEZINGS)
@pytest.mark.parametrize(
    ("make", "theirs"), [(WithLossNetwork, "perceptual"), (PartlyFrozen, "stem"), (WithTeacher, "teacher")]
)
def test_what_the_author_froze_is_not_trained_and_keeps_its_mode(tmp_path, make, theirs, which):
    module = make()
    before, as_it_was = bits(module, theirs), settings(module)
    look = fit(tmp_path, module, UNFREEZINGS[which]())
    assert {name for grads in look.grads for name in grads if name.startswith(theirs)} == set()
    assert all(mode == as_it_was[1][name] for modes in look.modes for name, mode in modes.items() if theirs in name)
    assert same(before, bits(module, theirs)) is (make is not WithTeacher)  # which moves by its author's hand
    assert settings(module) == as_it_was
    assert look.grads[0] == {"head.weight", "head.bias"}, "what is declared last is not the head"
    assert look.grads[-1] == {name for name, needs in as_it_was[0].items() if needs}


@pytest.mark.parametrize("train_norm", [False, True])
def test_norm_layers_in_no_optimizer_are_held(tmp_path, train_norm):
    module = ForeignNet()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.head.parameters(), lr=1e-2)
    before = bits(module, "stem", "body", "neck")
    look = fit(tmp_path, module, [GradualUnfreezing({0: "head"}, train_norm=train_norm)])
    assert same(before, bits(module, "stem", "body", "neck"))
    assert not any(mode for modes in look.modes for mode in modes.values())
    assert all(param.requires_grad for param in module.parameters())
    assert all(part.training for part in module.modules())


def test_a_copy_in_no_optimizer_is_no_obstacle(tmp_path):
    """As an EMA that somebody deep-copied: it has gradients and no optimizer."""
    module = ForeignNet()
    module.ema = copy.deepcopy(nn.ModuleDict(dict(module.named_children())))
    trained = [param for name, param in module.named_parameters() if not name.startswith("ema")]
    module.configure_optimizers = lambda: torch.optim.AdamW(trained, lr=1e-2)
    before = bits(module, "ema")
    fit(tmp_path, module, UNFREEZINGS["fine_tune"]())
    assert same(before, bits(module, "ema"))


class WithAverage(ForeignNet):
    """An average of weights, as timm's and torch's are: a copy that has a gradient, given to the optimizer too."""

    def __init__(self) -> None:
        super().__init__()
        del self.stem, self.body, self.neck, self.head
        self.net = timm.create_model("test_resnet", num_classes=4)
        self.average = AveragedModel(self.net)

    def forward(self, x):
        return self.net(x)


def test_a_copy_that_was_taken_for_the_head_is_refused_by_name(tmp_path):
    with pytest.raises(PhaseError, match=r"The loss depends on nothing that trains, which is\n  average.module.head"):
        fit(tmp_path, WithAverage(), UNFREEZINGS["gradual"]())
    module = WithAverage()
    module.average.requires_grad_(False)  # what the message says
    before = bits(module, "net.fc")
    fit(tmp_path, module, UNFREEZINGS["gradual"]())
    assert not same(before, bits(module, "net.fc"))


def test_a_copy_that_trains_beside_others_is_warned_of(tmp_path):
    half = GradualUnfreezing({0: 10, 1: "all"})  # of twelve groups
    with pytest.warns(UserWarning, match="'average.module.head' was taken .* the loss does not depend on it"):
        fit(tmp_path, WithAverage(), [half], max_epochs=2)


def test_an_unfreezing_for_which_the_optimizer_holds_nothing_is_refused(tmp_path):
    module = ForeignNet()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.head.parameters(), lr=1e-2)
    with pytest.raises(PhaseError, match=r"(?s)Phase 2 \(train='all'\).*stem, body, neck.*configure_optimizers"):
        fit(tmp_path, module, UNFREEZINGS["gradual"]())


def test_an_unfreezing_of_what_the_author_froze_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"Phase 2 \(train='all'\).*froze stem, body, neck \(12 tens.*unfreeze_all"):
        fit(tmp_path, Frozen(), UNFREEZINGS["gradual"]())
    with pytest.raises(PhaseError, match=r"trains 2 layer groups, but the model has 1.*unfreeze_all=True"):
        fit(tmp_path, Frozen(), [GradualUnfreezing({0: 2})])


@pytest.mark.parametrize("which", UNFREEZINGS)
def test_all_is_unfrozen_on_request_and_frozen_again(tmp_path, which):
    module = Frozen()
    as_it_was = settings(module)
    look = fit(tmp_path, module, UNFREEZINGS[which](unfreeze_all=True))
    assert look.grads[0] == {"head.weight", "head.bias"}
    assert look.grads[-1] == set(as_it_was[0])
    assert settings(module) == as_it_was


def test_a_module_that_trains_nothing_is_refused(tmp_path):
    module = ForeignNet().requires_grad_(False)
    with pytest.raises(PhaseError, match=r"(?s)nothing to train.*ForeignNet froze ForeignNet.*unfreeze_all"):
        fit(tmp_path, module, UNFREEZINGS["gradual"]())


def test_patterns_of_what_is_frozen_name_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"'stem' of `groups` matches only frozen.*unfreeze_all"):
        fit(tmp_path, PartlyFrozen(), [GradualUnfreezing({0: 1}, groups=["stem", "head"])])


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_fit_that_failed_leaves_the_module_to_the_next(tmp_path, error):
    class Fails(ForeignNet):
        def training_step(self, batch, batch_idx):
            if self.fails:
                raise error
            return super().training_step(batch, batch_idx)

    module = Fails()
    module.fails = True
    as_it_was = settings(module)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        fit(tmp_path, module, UNFREEZINGS["fine_tune"]())
    assert settings(module) == as_it_was
    module.fails = False
    look = fit(tmp_path, module, UNFREEZINGS["fine_tune"]())
    assert look.grads[-1] == set(as_it_was[0])


def test_after_backbone_finetuning_one_is_told_what_it_left_frozen(tmp_path, caplog):
    module = ForeignNet()
    module.backbone = nn.Sequential(module.stem, module.body, module.neck)
    module.configure_optimizers = lambda: torch.optim.AdamW(filter(lambda p: p.requires_grad, module.parameters()))
    fit(tmp_path, module, [BackboneFinetuning(unfreeze_backbone_at_epoch=10)], max_epochs=1)
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters())
    with caplog.at_level(logging.INFO):
        fit(tmp_path, module, UNFREEZINGS["fine_tune"]())
    said = [record.message for record in caplog.records if "froze " in record.message]
    assert len(said) == 1
    assert "FineTune: ForeignNet froze stem.0, body.0, neck.0 (6 tensors)" in said[0]
    assert "unfreeze_all=True" in said[0]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_what_a_hook_of_the_module_freezes_is_the_authors_too(tmp_path, hook):
    module = ForeignNet()
    setattr(module, hook, lambda: module.stem.requires_grad_(False))
    before = bits(module, "stem.0")
    look = fit(tmp_path, module, UNFREEZINGS["fine_tune"]())
    assert same(before, bits(module, "stem.0"))
    assert "stem.0.weight" not in look.grads[-1]
    assert not module.stem[0].weight.requires_grad
    assert module.body[0].weight.requires_grad


class FrozenAtStart(ForeignNet):
    """Its author freezes where training starts."""

    def on_train_start(self):
        self.stem.requires_grad_(False)


def test_what_is_frozen_as_training_starts_is_so_in_a_run_that_resumes_within_an_epoch(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    begun = FrozenAtStart()
    fit(tmp_path, begun, [*UNFREEZINGS["fine_tune"](), saver], enable_checkpointing=True)
    resumed, look = FrozenAtStart(), Look()
    fitted(tmp_path, *UNFREEZINGS["fine_tune"](), look, module=resumed, ckpt_path=tmp_path / "step=3.ckpt")
    assert len(look.grads) == 9
    assert look.grads[0] == {"head.weight", "head.bias"}
    assert not any(name.startswith("stem") for name in look.grads[-1])
    assert same(bits(begun), bits(resumed))


@pytest.mark.parametrize("make", [WithLossNetwork, PartlyFrozen])
def test_a_resumed_run_leaves_the_same_alone(tmp_path, make):
    def run(resume=None, epochs=4):
        pl.seed_everything(3, verbose=False)
        module, look = make(), Look()
        phases = [Phase(2, "head", 1e-2), Phase(2, "all", (1e-3, 1e-2))]

        callbacks = [FineTune(phases), look, *([StopAfter(epochs)] if epochs < 4 else [])]
        trainer = fitted(tmp_path, *callbacks, module=module, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module, look

    whole, _ = run()
    with pytest.warns(UserWarning, match="stopped"):
        run(epochs=3)
    resumed, look = run(tmp_path / "last.ckpt")
    assert same(bits(whole), bits(resumed))
    assert len(look.grads) == 6
    assert settings(resumed) == settings(whole) == settings(make())
