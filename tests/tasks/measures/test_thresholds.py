import pytest
import torch
from sklearn.metrics import accuracy_score, fbeta_score

from lightning_finetune.tasks.measures.thresholds import BestThreshold, LabelAccuracy, SampleFBeta


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(97, 6, generator=generator) < 0.3).int()
    target[:3] = 0  # images without labels
    return (torch.rand(97, 6, generator=generator) * 0.6 + 0.4 * target).clamp(0, 1), target


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("thresholds", [0.2, 0.5, [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]])
def test_f_beta_is_scikit_learns_over_batches(sample, beta, thresholds):
    probabilities, target = sample
    metric = SampleFBeta(6, beta, thresholds)
    for rows in (slice(0, 50), slice(50, 97)):
        metric.update(probabilities[rows], target[rows])
    predicted = probabilities > torch.as_tensor(thresholds)
    theirs = fbeta_score(target, predicted, beta=beta, average="samples", zero_division=0)
    assert metric.compute().item() == pytest.approx(theirs, abs=1e-6)


def test_accuracy_of_all_and_of_each_label(sample):
    probabilities, target = sample
    thresholds = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    predicted = (probabilities > torch.tensor(thresholds)).int()
    each, micro = LabelAccuracy(6, thresholds, average=None), LabelAccuracy(6, thresholds)
    each.update(probabilities, target)
    micro.update(probabilities, target)
    theirs = [accuracy_score(target[:, label], predicted[:, label]) for label in range(6)]
    assert each.compute().tolist() == pytest.approx(theirs, abs=1e-6)
    assert micro.compute().item() == pytest.approx(sum(theirs) / 6, abs=1e-6)


def test_best_threshold_is_the_best_of_all(sample):
    probabilities, target = sample
    best = BestThreshold(per_label=False)
    for rows in (slice(0, 40), slice(40, 97)):
        best.update(probabilities[rows], target[rows])
    found = best.compute().item()
    scores = {
        t: fbeta_score(target, probabilities > t, beta=2, average="samples", zero_division=0)
        for t in (step / 100 for step in range(1, 100))
    }
    at_best = fbeta_score(target, probabilities > found, beta=2, average="samples", zero_division=0)
    assert at_best == pytest.approx(max(scores.values()), abs=1e-6)


def test_best_thresholds_of_each_label():
    target = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    probabilities = torch.tensor([[0.1, 0.6], [0.2, 0.7], [0.4, 0.8], [0.5, 0.9]])
    best = BestThreshold(per_label=True)
    best.update(probabilities, target)
    first, second = best.compute().tolist()
    assert 0.2 <= first < 0.4
    assert 0.7 <= second < 0.8
    assert first == pytest.approx(0.29, abs=0.011)  # the middle of those that are equal
