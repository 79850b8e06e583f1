# %% [markdown]
# # Gradient descent, first by hand, then in Lightning
#
# The lessons' primer: a cloud of points lies around a line, `y = x @ a + noise`, and we look for `a`. What finds it
# is what trains the largest network: a loss, its gradient, and a small step downhill, again and again.

# %%
# %matplotlib inline
import io
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import LinearRegression, LRRangeTest, OneCycle

given = sys.argv[1:] if "ipykernel" not in sys.modules else []  # a kernel's own words are none of ours
OUT = Path(given[0] if given else "runs/primer")
pl.seed_everything(42, verbose=False)
OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Tensors
#
# A tensor is a table of numbers with any number of dimensions; how many is its rank. Here are one hundred points with
# a first coordinate between -1 and 1, and a column of ones, so that `a[1]` is where the line crosses the y axis.

# %%
x = torch.ones(100, 2)  # rank 2
x[:, 0].uniform_(-1.0, 1.0)  # a name that ends in _ changes the tensor in place
truth = torch.tensor([3.0, 2.0])  # rank 1
y = x @ truth + 0.5 * torch.rand(100)  # the noise is 0.25 on average, which the intercept will learn
print("x has the shape", list(x.shape), "and rank", x.ndim, "and begins with\n", x[:3])

# %% [markdown]
# This is all that is given: the points. The line is what we look for.

# %%
figure = Figure(figsize=(5, 4), layout="constrained")
axes = figure.subplots()
axes.scatter(x[:, 0], y, s=12, color="#4477aa")
axes.set(xlabel="x", ylabel="y", title="100 points")
figure.savefig(OUT / "points.png", dpi=80)
Image.open(OUT / "points.png")

# %% [markdown]
# ## By hand
#
# The loss is the mean squared error. `backward()` finds its gradient, which says in which direction of `a` the loss
# grows. So we step the other way, by the learning rate times the gradient: in place, and without recording, as the
# step is no part of the loss. Then the gradient is set to zero, because the next one would be added to it.

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


# %%
class Film:
    """The points, and the line of each step, as a GIF; a notebook shows it as an animated PNG."""

    def __init__(self, lines: list[torch.Tensor], path: Path) -> None:
        self.path = path
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.subplots()
        axes.scatter(x[:, 0], y, s=12, color="#4477aa")
        (line,) = axes.plot([-1, 1], [0, 0], color="#cc3311", linewidth=2)
        ends = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])

        def draw(number: int) -> list:
            line.set_ydata(ends @ lines[number])
            axes.set_title(f"step {number}: a = ({lines[number][0]:.2f}, {lines[number][1]:.2f})")
            return [line]

        FuncAnimation(figure, draw, frames=range(0, len(lines), 2)).save(path, PillowWriter(fps=12), dpi=70)

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        Image.open(self.path).save(shown, "PNG", save_all=True)
        return shown.getvalue()


# %%
Film(by_hand, OUT / "by_hand.gif")

# %% [markdown]
# ## In Lightning
#
# Loss, gradient, step: a Trainer does the same three things. Three more are added here. A step sees a *batch* of ten
# points and not all of them, which makes it *stochastic* gradient descent: cheaper, and a little noisy. The learning
# rate is not guessed: a *range test* tries rates from small to large, and leaves everything as it was. And the rate
# is not the same throughout: in *one cycle* it warms up, peaks at what the test suggests, and fades, while the
# momentum of the steps does the opposite.


# %%
class Remember(pl.Callback):
    """Keeps the line of each step, for the film."""

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
print("the range test suggests", {name: round(rate, 4) for name, rate in test.results[0].suggestions.items()})
print("found in Lightning:", model.a.data, "by", trainer.global_step, "steps")

# %% [markdown]
# The curve of the range test: below some rate nothing happens, then the loss falls, and when steps are too long it
# shoots up. The peak of the cycle was set to `valley`, a rate at which the loss is falling for good.

# %%
Image.open(OUT / "lr_range_epoch_0.png")

# %% [markdown]
# The momentum shows: the line begins slowly, rises too high in the middle (`a[1]` goes beyond 2.5), swings back, and
# comes to rest as the rate fades. Both ways end near a slope of 3 and an intercept of 2.25, the 2 and the mean of the
# noise.

# %%
Film(remember.lines, OUT / "lightning.gif")
