"""The calibrated head: heads against scikit-learn, the prior against a naive search, and calibration on the digits."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from alnb.data import Resident
from alnb.learn import heads, metrics
from alnb.learn.nets import linear, small
from alnb.learn.train import log_probs, predict
from alnb.store import Stream


def problem(n: int = 40, width: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Features [N,D] and labels, which the first features predict."""
    features = 5 + torch.randn(n, width, generator=Stream(0).generator())
    return features, (features[:, 0] * 2).long() % classes


def standard(features: Tensor) -> Tensor:
    """Centred, scaled to a root mean square length of 1, with a 1 appended."""
    x = features.double() - features.double().mean(0)
    return torch.cat([x / x.square().sum(1).mean().sqrt(), torch.ones(len(x), 1, dtype=torch.float64)], 1)


def naive(features: Tensor, known: Tensor, labels: Tensor, prior: float, weights: Tensor) -> Tensor:
    """Log-probabilities [N,C] of scikit-learn's logistic regression with a weight for each image."""
    x = standard(features).numpy()
    model = LogisticRegression(C=prior**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(x[known], labels.numpy(), sample_weight=weights.numpy())
    return torch.from_numpy(model.predict_log_proba(x)).float()


@pytest.mark.parametrize("width", [3, 50])  # fewer features than labels, and more
@pytest.mark.parametrize("prior", [0.3, 4.0])
def test_heads_are_those_of_weighted_logistic_regression(prior: float, width: int) -> None:
    features, labels = problem(width=width)
    known = torch.arange(0, 40, 2)
    best = heads.ensemble(features, known, labels[known], 3, prior=prior).log_probs(features)[..., 0]
    torch.testing.assert_close(best, naive(features, known, labels[known], prior, torch.ones(20)), atol=1e-3, rtol=1e-3)
    drawn = heads.ensemble(features, known, labels[known], 3, 2, torch.Generator().manual_seed(1), prior).log_probs(features)
    weights = torch.empty(2, 20, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    for k in range(2):
        expected = naive(features, known, labels[known], prior, weights[k] / weights[k].mean())
        torch.testing.assert_close(drawn[..., k], expected, atol=1e-3, rtol=1e-3)


def test_the_prior_is_that_of_the_smallest_loss_on_left_out_labels() -> None:
    features, labels = problem(30, 10)
    known, fold = torch.arange(30), torch.zeros(30, dtype=torch.long)
    for c in range(3):
        fold[labels == c] = torch.arange(int((labels == c).sum())) % heads.FOLDS
    losses = dict.fromkeys(heads.PRIORS, 0.0)
    for prior, out in product(heads.PRIORS, range(heads.FOLDS)):
        values = heads.ensemble(features, known[fold != out], labels[fold != out], 3, prior=prior).log_probs(features)[..., 0]
        losses[prior] += float(cross_entropy(values[fold == out], labels[fold == out], reduction="sum"))
    expected = heads.ensemble(features, known, labels, 3, prior=min(losses, key=lambda prior: losses[prior])).log_probs(features)
    torch.testing.assert_close(heads.ensemble(features, known, labels, 3).log_probs(features), expected)


def test_the_prior_is_wide_where_features_predict_labels() -> None:
    """Random labels get the smallest prior; so does one label of each class, where there is nothing to leave out."""
    features, _ = problem(300, 10)
    clear, noise = 10 * torch.eye(3).repeat(20, 1), torch.randint(3, (60,), generator=Stream(2).generator())
    known, one_each = torch.arange(60), torch.tensor([0, 1, 2])
    for x, rows, labels, prior in (
        (clear, known, known % 3, heads.PRIORS[-1]),
        (features, known, noise, heads.PRIORS[0]),
        (features, one_each, one_each, heads.PRIORS[0]),
    ):
        chosen, expected = (heads.ensemble(x, rows, labels, 3, prior=value).log_probs(x) for value in (None, prior))
        torch.testing.assert_close(chosen, expected)
    with pytest.raises(ValueError, match="prior is 0"):
        heads.ensemble(features, known, noise, 3, prior=0)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5), st.integers(1, 4), st.integers(0, 9))
def test_shapes(known: int, width: int, classes: int, draws: int, seed: int) -> None:
    features = torch.randn(9, width, generator=torch.Generator().manual_seed(seed))
    rows, generator = torch.arange(known), torch.Generator().manual_seed(seed)
    values = heads.ensemble(features, rows, rows % classes, classes, draws, generator).log_probs(features)
    assert values.shape == (9, classes, draws)
    torch.testing.assert_close(values.exp().sum(1), torch.ones(9, draws))


def test_equal_features_are_no_error() -> None:
    best = heads.ensemble(torch.ones(4, 2), torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(best.log_probs(torch.ones(1, 2))[0, :, 0].exp(), torch.tensor([0.5, 0.5]))


def test_a_calibrated_net_is_another_net() -> None:
    with (Stream(0) / "heads").scope():
        net = small(3, width=4).eval()
    images = Resident(torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=Stream(0).generator()))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    known, labels = torch.arange(12), torch.arange(12) % 3
    after = heads.calibrated(net, images, known, labels)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    expected = heads.ensemble(predict(net.features, images), known, labels, 3).log_probs(predict(net.features, images))[..., 0]
    torch.testing.assert_close(predict(log_probs(after), images), expected)


@pytest.mark.parametrize("per_class", [5, 10])
def test_calibration_on_the_digits(per_class: int) -> None:
    """Pixels of 1,000 digits, 5 or 10 labels a class: better in log loss and in calibration than the head that `fit` gives."""
    x, y = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    x, y = (x / 16).float(), y.long()
    known = torch.cat([(y[:1000] == c).nonzero()[:per_class, 0] for c in range(10)])
    best = heads.ensemble(x[:1000], known, y[known], 10)
    net = linear(10, 64)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(100):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 100))
        loss = cross_entropy(net(x[known]), y[known])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pairs = [(values, y[1000:]) for values in (best.log_probs(x[1000:])[..., 0], net(x[1000:]).detach().log_softmax(1))]
    (error, plain_error), (likelihood, plain_likelihood) = (
        [float(metric(*pair)) for pair in pairs] for metric in (metrics.calibration_error, metrics.negative_log_likelihood)
    )
    assert error < 0.6 * plain_error and likelihood < plain_likelihood
