"""The calibrated head: its posterior against a brute-force Hessian, and its calibration on the digits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
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


def standard(features: Tensor, posterior: heads.Posterior) -> Tensor:
    x = (features.double() - posterior.centre) / posterior.scale
    return torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)


def covariance(posterior: heads.Posterior) -> Tensor:
    """[P C,P C], from the factors."""
    basis = torch.kron(posterior.inputs, posterior.outputs)
    return basis @ torch.diag(posterior.deviation.flatten() ** 2) @ basis.T


def hessian(x: Tensor, labels: Tensor, at: Tensor, prior: float) -> Tensor:
    """By automatic differentiation of minus the log posterior."""

    def loss(flat: Tensor) -> Tensor:
        return cross_entropy(x @ flat.view_as(at), labels, reduction="sum") + flat.square().sum() / (2 * prior**2)

    return torch.autograd.functional.hessian(loss, at.flatten())


def test_the_mean_is_where_the_posterior_is_largest() -> None:
    features, labels = problem()
    known = torch.arange(0, 40, 2)
    posterior = heads.laplace(features, known, labels[known], 3, 2.0)
    mean = posterior.mean.clone().requires_grad_()
    x = standard(features[known], posterior)
    (cross_entropy(x @ mean, labels[known], reduction="sum") + mean.square().sum() / 8).backward()
    assert float(mean.grad.abs().max()) < 1e-3
    expected = (x @ posterior.mean).log_softmax(1).float()
    torch.testing.assert_close(posterior.best.log_probs(features[known])[..., 0], expected, atol=1e-4, rtol=1e-4)


def test_the_covariance_is_the_inverse_of_the_hessian() -> None:
    """Exact where all images have the same probabilities: with a prior so narrow that they are uniform; else nearly."""
    features, labels = problem()
    for prior, tolerance in ((1e-3, 1e-6), (0.3, 0.05), (1.0, 0.25)):
        posterior = heads.laplace(features, torch.arange(40), labels, 3, prior)
        expected = hessian(standard(features, posterior), labels, posterior.mean, prior).inverse()
        assert float((covariance(posterior) - expected).norm() / expected.norm()) < tolerance


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    features, labels = problem()
    posterior = heads.laplace(features, torch.arange(40), labels, 3, 1.0)
    drawn = posterior.draw(20_000, Stream(1).generator())
    weights = drawn.weights.double().transpose(1, 2) * posterior.scale
    bias = drawn.bias.double()[:, None] + (drawn.weights.double() @ posterior.centre)[:, None]
    flat = torch.cat([weights, bias], 1).flatten(1)
    expected = covariance(posterior)
    assert float((flat.mean(0) - posterior.mean.flatten()).abs().max()) < 0.05
    assert float((flat.T.cov() - expected).norm() / expected.norm()) < 0.03


def test_the_prior_is_chosen_by_labels_that_were_left_out() -> None:
    """Labels that the features predict get a wide prior, random ones a narrow one; with one of a class there is nothing to leave out."""
    features, _ = problem(300, 10)
    clear, noise = 10 * torch.eye(3).repeat(20, 1), torch.randint(3, (60,), generator=Stream(2).generator())
    known = torch.arange(60)
    assert heads.laplace(clear, known, known % 3, 3).prior >= 16
    assert heads.laplace(features, known, noise, 3).prior == heads.PRIORS[0]
    assert heads.laplace(features, torch.tensor([0, 1]), torch.tensor([0, 2]), 3).prior == heads.COLD
    with pytest.raises(ValueError, match="prior is 0"):
        heads.laplace(features, known, noise, 3, 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5), st.integers(1, 4), st.integers(0, 9))
def test_shapes(known: int, width: int, classes: int, draws: int, seed: int) -> None:
    features = torch.randn(9, width, generator=torch.Generator().manual_seed(seed))
    posterior = heads.laplace(features, torch.arange(known), torch.arange(known) % classes, classes)
    values = posterior.draw(draws, torch.Generator().manual_seed(seed)).log_probs(features)
    assert values.shape == (9, classes, draws)
    torch.testing.assert_close(values.exp().sum(1), torch.ones(9, draws))


def test_equal_features_are_no_error() -> None:
    posterior = heads.laplace(torch.ones(4, 2), torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(posterior.best.log_probs(torch.ones(1, 2))[0, :, 0].exp(), torch.tensor([0.5, 0.5]))


def test_a_calibrated_net_is_another_net() -> None:
    with (Stream(0) / "heads").scope():
        net = small(3, width=4).eval()
    images = Resident(torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=Stream(0).generator()))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    known, labels = torch.arange(12), torch.arange(12) % 3
    after = heads.calibrated(net, images, known, labels)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    expected = heads.laplace(predict(net.features, images), known, labels, 3).best.log_probs(predict(net.features, images))[..., 0]
    torch.testing.assert_close(predict(log_probs(after), images), expected)


@pytest.mark.parametrize("per_class", [5, 10])
def test_calibration_on_the_digits(per_class: int) -> None:
    """Pixels of 1,000 digits, 5 or 10 labels a class: better in log loss and in calibration than the head that `fit` gives."""
    x, y = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    x, y = (x / 16).float(), y.long()
    known = torch.cat([(y[:1000] == c).nonzero()[:per_class, 0] for c in range(10)])
    posterior = heads.laplace(x[:1000], known, y[known], 10)
    net = linear(10, 64)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(100):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 100))
        loss = cross_entropy(net(x[known]), y[known])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pairs = [(values, y[1000:]) for values in (posterior.best.log_probs(x[1000:])[..., 0], net(x[1000:]).detach().log_softmax(1))]
    (error, plain_error), (loss, plain_loss) = (
        [float(metric(*pair)) for pair in pairs] for metric in (metrics.calibration_error, metrics.negative_log_likelihood)
    )
    assert error < 0.6 * plain_error and loss < plain_loss
