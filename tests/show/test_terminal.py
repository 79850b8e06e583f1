from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.show.terminal import show_results


def test_of_many_metrics_what_validation_measured_is_shown_first(capsys):
    logged = {"train_acc": 0.1, "train_loss": 0.2, "train_f1": 0.3, "val_acc": 0.4, "val_loss": 0.5}
    show_results(make_plan([Phase(1, "all", 1e-3)], 5, num_groups=1), ["head"], [logged], {})
    head, row = [line.split() for line in capsys.readouterr().out.splitlines() if "val_loss" in line or "0.2" in line]
    assert head[-3:] == ["val_loss", "val_acc", "train_loss"]
    assert row[-3:] == ["0.5000", "0.4000", "0.2000"]
