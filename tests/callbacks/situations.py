"""Every callback, and every situation that it can be in."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging

from lightning_finetune import callbacks
from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.engine.phases import Phase

CALLBACKS = {
    "FineTune": lambda: callbacks.FineTune(
        [Phase(1, "head", 1e-2), Phase(2, "all", (1e-4, 1e-2), size=64)], min_size=32
    ),
    "GradualUnfreezing": lambda: callbacks.GradualUnfreezing({0: "head", 1: 2, 2: "all"}),
    "OneCycle": lambda: callbacks.OneCycle((1e-4, 1e-2)),
    "LRRangeTest": lambda: callbacks.LRRangeTest(num_steps=20, at_epochs=(0, 2), apply=False),
    "ProgressiveResizing": lambda: callbacks.ProgressiveResizing({0: 32, 2: 64}, min_size=32),
    "LogConfusion": lambda: callbacks.LogConfusion(),
    "EpochTable": callbacks.EpochTable,
    "LogPredictions": lambda: callbacks.LogPredictions(),
    "PlotRun": lambda: callbacks.PlotRun(),
    "RunReport": lambda: callbacks.RunReport(),
    "TrainingDiagnosis": lambda: callbacks.TrainingDiagnosis(),
    "WatchModel": lambda: callbacks.WatchModel(),
    "BestCheckpoint": lambda: BestCheckpoint(),
    "LastCheckpoint": lambda: LastCheckpoint(every_n_train_steps=4),
}
SITUATIONS = {
    "plain": {},
    "bf16": {"precision": "bf16-mixed"},
    "accumulation": {"accumulate_grad_batches": 4},
    "clipping": {"gradient_clip_val": 0.1},
    "part of the data": {"limit_train_batches": 0.5, "limit_val_batches": 1},
    "no validation": {"limit_val_batches": 0},
    "overfitting": {"overfit_batches": 2},
    "EMA": {},
    "mean of weights": {},
    "compiled": {},
}
"""What the Trainer is told, or, where that is nothing, what a test's own ``fit`` does."""


def averaging(situation) -> list[pl.Callback]:
    """Lightning's own callback that averages weights, where the situation is one."""
    makers = {
        "EMA": lambda: EMAWeightAveraging(decay=0.9),
        "mean of weights": WeightAveraging,
    }
    return [makers[situation]()] if situation in makers else []
