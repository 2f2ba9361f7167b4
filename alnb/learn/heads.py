"""Heads that know what they do not know: a linear head with a chosen prior, and draws of heads by dropout or from a Laplace posterior.

`calibrated` gives a net such a head. Nothing else in the package asks for it: a trained net keeps its head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alnb.data import Images
from alnb.learn.nets import Net
from alnb.learn.train import predict
from alnb.store.checks import within
from alnb.store.shapes import Float, Int

PRIORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
COLD = 2.0  # the prior if no class has two labels. Not worse than uniform on weak CIFAR-10 features, where 4 is: 2.19, 2.40, ln 10 = 2.30
FOLDS = 5

DROPOUT = 0.5  # of the penultimate features; Gal and Ghahramani 2016, and the active-learning code bases


@dataclass(frozen=True)
class Heads:
    """K linear heads on the same features of D numbers: draws of what the head of C classes might be."""

    weights: Float[Tensor, "K C D"]
    bias: Float[Tensor, "K C"]

    def log_probs(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M C K"]:
        """Log-probabilities of each head, on the device of the features."""
        draws, classes, width = self.weights.shape
        weights, bias = self.weights.to(features).reshape(-1, width), self.bias.to(features).flatten()
        return torch.addmm(bias, features, weights.T).view(-1, draws, classes).transpose(1, 2).log_softmax(1)


def linear_head(net: Net) -> nn.Linear:
    """The head of `net`. Raises: ValueError if it is not linear."""
    if not isinstance(net.head, nn.Linear):
        raise ValueError(f"the head is {type(net.head).__name__}, but draws of heads need nn.Linear: use a net of learn.nets")
    return net.head


def dropout(head: nn.Linear, draws: int, generator: torch.Generator, rate: float = DROPOUT) -> Heads:
    """`draws` heads in evaluation mode with dropout on the features: each with one mask for all images.

    For one image it is the usual dropout. The joint distribution of several images, which BatchBALD needs, asks for the common mask.
    Source: Gal and Ghahramani 2016; Kirsch et al. 2019, section 4.1 (consistent masks).
    """
    mask = torch.rand(draws, 1, head.in_features, generator=generator) >= rate
    weights, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    return Heads(weights * mask / (1 - rate), bias.expand(draws, -1))


@dataclass(frozen=True)
class Posterior:
    """A normal distribution of the head, on features with a 1 appended, P = D + 1, after centring and scaling."""

    mean: Float[Tensor, "P C"]  # the most probable head
    deviation: Float[Tensor, "P C"]  # standard deviations along `inputs` and `outputs`
    inputs: Float[Tensor, "P P"]  # columns: directions among the features
    outputs: Float[Tensor, "C C"]  # columns: directions among the classes
    centre: Float[Tensor, " D"]
    scale: float
    prior: float

    @property
    def best(self) -> Heads:
        """The most probable head, K = 1: `best.log_probs(features)[..., 0]` is well calibrated."""
        return self._heads(self.mean[None])

    def draw(self, draws: int, generator: torch.Generator) -> Heads:
        """`draws` heads."""
        noise = torch.randn(draws, *self.mean.shape, generator=generator, dtype=torch.float64).to(self.mean)
        return self._heads(self.mean + self.inputs @ (noise * self.deviation) @ self.outputs.T)

    def _heads(self, drawn: Tensor) -> Heads:
        """`drawn` [K,P,C] as heads on the features as they are."""
        weights = drawn[:, :-1].transpose(1, 2) / self.scale
        return Heads(weights.float(), (drawn[:, -1] - weights @ self.centre).float())


def laplace(
    features: Float[Tensor, "N D"], known: Int[Tensor, " L"], labels: Int[Tensor, " L"], classes: int, prior: float | None = None
) -> Posterior:
    """The Laplace posterior of a linear softmax head fitted to the rows `known` of `features`, with their `labels`. Memory O(N D + P^2).

    The features are centred, and scaled to a root mean square length of 1, over all N rows: they need no labels.
    The curvature is Kronecker-factored: the sum of x x' times the mean of diag(p) - p p'. It is exact where all p are equal.

    Args:
        prior: standard deviation of each weight, thus of a typical logit before any label. None: the one of `PRIORS` with the smallest
            log loss in `FOLDS`-fold cross-validation; `COLD` if no class has two labels.
    Raises: ValueError if the prior is not above 0.
    Source: MacKay 1992; Ritter et al. 2018 (factors); Kristiadi et al. 2020 (last layer). They choose the prior by the evidence.
    """
    features = features.detach().double()
    centre = features.mean(0)
    scale = float((features - centre).square().sum(1).mean().sqrt().clamp(min=1e-12))
    known, labels = known.to(features.device), labels.to(features.device)
    x = torch.cat([(features[known] - centre) / scale, features.new_ones(len(known), 1)], 1)
    prior = _chosen(x, labels, classes) if prior is None else prior
    within("laplace: prior", prior, 0, above=True)
    mean = _fit(x, labels, prior, x.new_zeros(x.shape[1], classes))
    probs = (x @ mean).softmax(1)
    across, inputs = torch.linalg.eigh(x.T @ x)
    between, outputs = torch.linalg.eigh((torch.diag(probs.sum(0)) - probs.T @ probs) / len(x))
    precision = across.clamp(min=0)[:, None] * between.clamp(min=0) + prior**-2
    return Posterior(mean, precision.rsqrt(), inputs, outputs, centre, scale, prior)


def calibrated(net: Net, images: Images, known: Int[Tensor, " L"], labels: Int[Tensor, " L"], prior: float | None = None) -> Net:
    """A copy of `net` whose head is the most probable one given the images at global indices `known`, as of `laplace`.

    For `train.evaluate`, or in a query. Raises: ValueError if the head is not linear, or as `laplace`.
    """
    copied, classes = copy.deepcopy(net), linear_head(net).out_features
    best = laplace(predict(net.features, images), known, labels, classes, prior).best
    head = linear_head(copied)
    head.load_state_dict({"weight": best.weights[0], "bias": best.bias[0]})
    return copied


def _chosen(x: Tensor, labels: Tensor, classes: int) -> float:
    """The prior with the smallest log loss on labels that were left out."""
    turn = torch.stack([(labels[:i] == label).sum() for i, label in enumerate(labels)])  # of each label within its class
    if int(turn.max()) == 0:
        return COLD
    losses = dict.fromkeys(PRIORS, 0.0)
    for fold in range(min(FOLDS, int(turn.max()) + 1)):
        out = turn % FOLDS == fold
        weights = x.new_zeros(x.shape[1], classes)
        for prior in PRIORS:
            weights = _fit(x[~out], labels[~out], prior, weights)
            losses[prior] += float(cross_entropy(x[out] @ weights, labels[out], reduction="sum"))
    return min(losses, key=lambda prior: losses[prior])


@torch.enable_grad()
def _fit(x: Tensor, labels: Tensor, prior: float, start: Tensor) -> Tensor:
    """The weights [P,C] that maximise the likelihood times the prior: a convex problem."""
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=100, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = cross_entropy(x @ weights, labels, reduction="sum") + weights.square().sum() / (2 * prior**2)
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()
