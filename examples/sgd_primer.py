# %% [markdown]
# # Gradient descent, first by hand, then in Lightning
#
# The lessons' primer: a cloud of points lies around a line, `y = x @ a + noise`, and we look for `a`.

# %%
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import LinearRegression, LRRangeTest, OneCycle

OUT = Path(sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 and "ipykernel" not in sys.modules else "primer")
OUT.mkdir(parents=True, exist_ok=True)
pl.seed_everything(42, verbose=False)

# %% [markdown]
# ## Tensors
#
# A tensor is a table of numbers with any number of dimensions; how many is its rank. One hundred points with a first
# coordinate between -1 and 1, and a column of ones, so that `a[1]` is where the line meets the axis.

# %%
x = torch.ones(100, 2)  # rank 2
x[:, 0].uniform_(-1.0, 1.0)  # a name that ends in _ changes the tensor in place
truth = torch.tensor([3.0, 2.0])  # rank 1
y = x @ truth + 0.5 * torch.rand(100)  # the noise is 0.25 on average, which the intercept will learn
print(x.shape, x.ndim, truth.ndim, x[:3])

# %% [markdown]
# ## By hand
#
# The loss is the mean squared error. Its gradient says in which direction of `a` it grows, so we step the other way, by
# the learning rate times the gradient; in place and without recording, as the step is no part of the loss.

# %%
a = torch.nn.Parameter(torch.tensor([-1.0, 1.0]))
by_hand = [a.detach().clone()]
for step in range(100):
    loss = ((x @ a - y) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        a.sub_(0.1 * a.grad)
        a.grad.zero_()
    by_hand.append(a.detach().clone())
    if step % 20 == 0:
        print(f"step {step:3}: loss {loss:.4f}")
print("found by hand:", a.data)

# %% [markdown]
# ## In Lightning
#
# The same with batches (that is what makes it *stochastic*), a rate from the range test, and one cycle of rates.


# %%
class Remember(pl.Callback):
    """Keeps the line of each step, for the animation."""

    def __init__(self) -> None:
        self.lines: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.lines.append(pl_module.a.detach().clone())


model = LinearRegression(num_features=2)
remember = Remember()
test = LRRangeTest(start_lr=1e-4, num_steps=100, suggest="valley")
trainer = pl.Trainer(
    max_epochs=10,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir=OUT,
    callbacks=[test, OneCycle(max_lr=0.1), remember],
)
trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True))
print("the range test suggests", {name: round(rate, 3) for name, rate in test.results[0].suggestions.items()})
print("found in Lightning:", model.a.data, "by", trainer.global_step, "steps")

# %% [markdown]
# ## How the line is found


# %%
def animate(lines: list[torch.Tensor], path: Path) -> None:
    """Draw the points, and the line of each step."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[:, 0], y, s=12, color="#4477aa")
    (line,) = axes.plot([-1, 1], [0, 0], color="#cc3311", linewidth=2)
    ends = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])

    def draw(number: int) -> list:
        line.set_ydata(ends @ lines[number])
        axes.set_title(f"step {number}: a = ({lines[number][0]:.2f}, {lines[number][1]:.2f})")
        return [line]

    FuncAnimation(figure, draw, frames=range(0, len(lines), 2)).save(path, PillowWriter(fps=12))


animate(by_hand, OUT / "by_hand.gif")
animate(remember.lines, OUT / "lightning.gif")
print("the animations are in", OUT)
