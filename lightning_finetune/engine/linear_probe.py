"""A linear head solved over the features of a pretrained network, in place of one that is learnt from random weights.

A head that starts at its optimum sends no large, random gradients into the layers below it (LP-FT; Kumar et al. 2022,
https://arxiv.org/abs/2202.10054), and costs one pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

STRENGTH = 0.1
"""Inverse strength of the L2 penalty, scikit-learn's ``C``, for features that are scaled as in :func:`scales`."""

MAX_STEPS = 200
"""Steps of L-BFGS; a few dozen are the rule."""

Criterion = Callable[[Tensor, Tensor], Tensor]


def solve_head(
    features: Tensor, targets: Tensor, criterion: Criterion, num_outputs: int, strength: float = STRENGTH
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer that minimises ``criterion`` over ``features``, with an L2 penalty.

    With cross-entropy this is scikit-learn's ``LogisticRegression(C=strength)`` over features that are centred and
    scaled, with binary cross-entropy one such regression per label, with a squared error ridge regression.

    Args:
        features: ``[N, C]``.
        targets: ``[N]``, or ``[N, L]``: shares of classes for cross-entropy, else of L outputs that the criterion
            averages over too.
        criterion: Outputs ``[N, num_outputs]`` and targets to the mean loss.
        num_outputs: Of the layer.
        strength: Less is a stronger penalty.

    Returns:
        Weight ``[num_outputs, C]`` and bias ``[num_outputs]`` for the features as they are.
    """
    features = features.detach().float()
    mean, scale = features.mean(0), scales(features)
    scaled = (features - mean) * scale
    weight = scaled.new_zeros(num_outputs, scaled.shape[1], requires_grad=True)
    bias = scaled.new_zeros(num_outputs, requires_grad=True)
    averaged = len(targets) if isinstance(criterion, nn.CrossEntropyLoss) else targets.numel()
    penalty = 1 / (2 * strength * averaged)
    optimizer = LBFGS(
        [weight, bias], max_iter=MAX_STEPS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = criterion(scaled @ weight.T + bias, targets) + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # likewise
    solved = weight.detach() * scale
    return solved, bias.detach() - solved @ mean


def scales(features: Tensor) -> Tensor:
    """What each feature of ``[N, C]`` is multiplied by: one over the root of its variance and the mean variance.

    By its own deviation alone, as is usual, a feature that hardly varies over these images would get a huge weight, and
    the loss would explode as soon as the layers below train. By the mean alone, one that varies most would hide others.
    """
    variance = features.var(dim=0, correction=0)
    return (variance + variance.mean() + 1e-12).rsqrt()
