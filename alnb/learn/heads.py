"""Heads that know what they do not know: draws of a linear head by dropout or by the Bayesian bootstrap, and one with a chosen prior."""

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


def ensemble(
    features: Float[Tensor, "N D"],
    known: Int[Tensor, " L"],
    labels: Int[Tensor, " L"],
    classes: int,
    draws: int = 0,
    generator: torch.Generator | None = None,
    prior: float | None = None,
) -> Heads:
    """The most probable linear softmax head given the rows `known` of `features` and their `labels`; with `draws`, K of them instead.

    The features are centred, and scaled to a root mean square length of 1, over all N rows. Memory O(N D + L K C). Each of the draws has
    other weights of the labelled images, exponential and divided by their mean: the Bayesian bootstrap. Raises: ValueError if prior <= 0.

    prior: standard deviation of each weight and bias, thus of a typical logit before any label. None: the one of `PRIORS` with the smallest
        log loss in `FOLDS`-fold cross-validation; the smallest one if no class has two labels.
    Source: Rubin 1981; Newton and Raftery 1994 (weighted likelihood).
    """
    features, labels = features.detach().float(), labels.to(features.device)
    centre, scale = features.mean(0).double(), features.var(0, correction=0).sum().sqrt().clamp(min=1e-12)
    x = torch.nn.functional.pad((features[known.to(features.device)].double() - centre) / scale, (0, 1), value=1)
    left, sizes, axes = torch.linalg.svd(x, full_matrices=False)  # the best weights are sums of rows: min(L, D + 1) coordinates suffice
    x = left * sizes
    prior = _chosen(x, labels, classes) if prior is None else prior
    within("heads.ensemble: prior", prior, 0, above=True)
    best = _fit(x, labels, x.new_ones(1, len(x)), prior, x.new_zeros(x.shape[1], 1, classes))[0]
    if draws:
        weights = torch.empty(draws, len(x), dtype=x.dtype).exponential_(generator=generator)
        best = _fit(x, labels, (weights / weights.mean(1, keepdim=True)).to(x), prior, best.expand(-1, draws, -1))[0]
    weights = torch.einsum("rd,rkc->kcd", axes, best)
    slopes = weights[..., :-1] / scale
    return Heads(slopes.float(), (weights[..., -1] - slopes @ centre).float())


def calibrated(net: Net, images: Images, known: Int[Tensor, " L"], labels: Int[Tensor, " L"], prior: float | None = None) -> Net:
    """A copy of `net` with the most probable head of `ensemble` for the images at global indices `known`.

    Its probabilities are nearer to the truth than those of a trained head (`python -m benchmarks calibration`). With one or two labels a
    class they are little better than even, and may predict fewer classes rightly.
    Use it in `train.evaluate` or, by `replace(query, net=...)`, before a strategy. Raises: ValueError if the head is not linear.
    """
    copied = copy.deepcopy(net)
    head = linear_head(copied)
    best = ensemble(predict(net.features, images), known, labels, head.out_features, prior=prior)
    head.load_state_dict({"weight": best.weights[0], "bias": best.bias[0]})
    return copied


def _chosen(x: Tensor, labels: Tensor, classes: int) -> float:
    """The prior with the smallest log loss on labels that were left out: in each fold, every `FOLDS`-th of each class."""
    turn = torch.stack([(labels[:i] == label).sum() for i, label in enumerate(labels)])  # of each label within its class
    inside = turn % FOLDS != torch.arange(min(FOLDS, int(turn.max()) + 1)).to(turn)[:, None]  # [folds,L]
    best, sums = x.new_zeros(x.shape[1], len(inside), classes), []
    for prior in PRIORS:
        best, losses = _fit(x, labels, inside.to(x), prior, best)
        sums.append(float(losses[~inside].sum()))
    return PRIORS[sums.index(min(sums))]


@torch.enable_grad()
def _fit(x: Tensor, labels: Tensor, weights: Tensor, prior: float, start: Tensor) -> tuple[Tensor, Tensor]:
    """The K heads [R,K,C] that maximise the likelihood, weighted by `weights` [K,L], times the prior: convex. And the log losses [K,L].

    The columns of x [L,R] are orthogonal. In units of 1 / sqrt(square / C + 1 / prior^2) the curvature is about the same along all.
    """
    unit = (x.square().sum(0) / start.shape[2] + prior**-2).rsqrt()[:, None, None]
    free = (start / unit).requires_grad_()
    optimiser = torch.optim.LBFGS([free], max_iter=200, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def losses() -> Tensor:
        logits = torch.einsum("lr,rkc->kcl", x, unit * free)
        return cross_entropy(logits, labels.expand(len(weights), -1), reduction="none")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (weights * losses()).sum() + (unit * free).square().sum() / (2 * prior**2)
        value.backward()
        return value

    optimiser.step(loss)
    return unit * free.detach(), losses().detach()
