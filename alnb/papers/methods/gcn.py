"""CoreGCN and UncertainGCN: a graph net learns which images are labelled, and what it learns of each image decides the query.

The graph joins every image to every other by the cosine of their features, but no N x N matrix is ever formed: the cosines are a product
of the features [N,D] with themselves, so a product with the graph is two thin products.

Source: Caramalau et al. 2021 (Sequential graph convolutional network for active learning), with the settings of the authors' code
(razvancaramalau/Sequential-GCN-for-Active-Learning).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.acquire import cover, scores
from alnb.acquire.query import Query
from alnb.acquire.scopes import check_both
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.store.checks import at_least, one_of, within
from alnb.store.streams import Stream

ZERO = 1e-12  # a row of features no longer than this counts as zeros, as in `torch.nn.functional.normalize`
SPACES = ("hidden", "hidden_logit", "features")  # in which `CoreGCN` measures distances
ALONE = 1e-3  # smallest sum of a node's cosines to divide by: below it, fewer than three digits of float32 are left


@dataclass(frozen=True)
class Graph:
    """N nodes and the weights A = (S - I) / d + I between them: S holds the cosines of their features, d the column sums of S - I.

    Each column is divided by its own sum, so A is not symmetric. Gradients through `product` are products with A transposed. A node
    that shares nothing with any other, such as one without features, stands alone: its column of A is that of I. (Its d is 0, where the
    formula is undefined. For a row of zeros the formula would give 2 where A is 1 here.)

    Memory: O(N D). Source: Caramalau et al. 2021; the authors' code forms A.
    """

    x: Tensor  # float [N,D], rows of length 1, or 0
    scale: Tensor  # float [N], 1 / d; 0 where a node stands alone
    diagonal: Tensor  # float [N], the part of A's diagonal that the thin products lack

    @classmethod
    def of(cls, features: Tensor) -> Graph:
        """The graph of features float [N,D], which do not change. Half precision is widened to float32.

        Raises ValueError if features are not float [N,D], a row is not finite or too long to be measured, or a node's cosines sum to 0 or
        less, which only negative features can cause.
        """
        cover.check_features(features)
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=1)
        cover.check_norms(length)
        x = wide * torch.where(length > ZERO, 1 / length, 0)[:, None]
        itself = torch.linalg.vector_norm(x, dim=1).square_()
        total = x @ x.sum(dim=0) - itself
        joined = total >= ALONE
        bad = ((~joined) & (length > ZERO)).nonzero().flatten()
        if len(bad) and bool((features < 0).any()):
            raise ValueError(
                f"features[{int(bad[0])}] has cosines that add up to {float(total[bad[0]]):.3g} over all other nodes, and the graph "
                "divides by that sum: take features that are not negative, as behind a ReLU, or another strategy, such as kcenter"
            )
        scale = torch.where(joined, 1 / total, 0)
        return cls(x, scale, 1 - itself * scale)

    def product(self, v: Tensor) -> Tensor:
        """A v [N,K] of v float [N,K]."""
        return (self.x @ (self.x.T @ (v * self.scale[:, None]))).addcmul_(self.diagonal[:, None], v)


class GCN(nn.Module):
    """Two graph layers, `width` to `hidden` to 1: 65,664 + 129 parameters for 512 features.

    All weights and biases start uniform in +-1 / sqrt(outputs of the layer). Differs from the authors' code: it has two more layers,
    which it never uses.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        """For features [N,`width`]."""
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, 1)
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.out_features)
            for values in layer.parameters():
                nn.init.uniform_(values, -bound, bound)

    def hidden(self, smoothed: Tensor) -> Tensor:
        """First layer [N,hidden] of smoothed features [N,D]: relu(A x w + b). Smoothing once saves a product with A in each step."""
        return self.first(smoothed).relu_()

    def logits(self, graph: Graph, hidden: Tensor) -> Tensor:
        """Logits [N] of being labelled: A h w + b."""
        return (graph.product(hidden @ self.second.weight.T) + self.second.bias)[:, 0]


def labelled_loss(logits: Tensor, labelled: int, weight: float) -> Tensor:
    """-mean log s over the first `labelled` nodes, minus `weight` times the mean of log(1 - s) over the others; s = sigmoid(logits [N]).

    From logits, so that no logarithm of 0 is ever taken. Source: Caramalau et al. 2021, as in the authors' code.
    """
    return functional.softplus(-logits[:labelled]).mean() + weight * functional.softplus(logits[labelled:]).mean()


@dataclass(frozen=True)
class Training:
    """How the graph net is built and trained. The defaults are those of the authors' code."""

    hidden: int = 128  # width of the first layer
    dropout: float = 0.3  # between the layers, while training
    unlabelled: float = 1.2  # weight of the unlabelled nodes' part of the loss
    lr: float = 1e-3  # of Adam
    weight_decay: float = 5e-4  # of Adam, in the gradient
    steps: int = 200  # each over all nodes

    def __post_init__(self) -> None:
        """Raises ValueError, which names the field, its value and what it may be."""
        for name in ("hidden", "steps"):
            at_least(f"Training.{name}", getattr(self, name), 1)
        for name in ("unlabelled", "lr"):
            within(f"Training.{name}", getattr(self, name), 0, above=True)
        within("Training.weight_decay", self.weight_decay, 0)
        within("Training.dropout", self.dropout, 0, 1)


def learn(graph: Graph, labelled: int, training: Training, stream: Stream) -> tuple[Tensor, Tensor]:
    """Train a fresh net; return its first layer [N,hidden] and the logits [N] of being labelled, in evaluation mode.

    The first `labelled` nodes are the labelled ones. There is no checkpoint: a training takes seconds.
    Raises NonFiniteLoss, which names the step.
    """
    smoothed = graph.product(graph.x)
    with (stream / "init").scope():
        net = GCN(smoothed.shape[1], training.hidden)
    net = net.to(smoothed)  # device and dtype
    optimiser = torch.optim.Adam(net.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    losses = []
    for step in range(training.steps):
        hidden = net.hidden(smoothed)
        dropped = hidden * dropout_mask(hidden, training.dropout, stream / "dropout" / step)
        loss = labelled_loss(net.logits(graph, dropped), labelled, training.unlabelled)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    with torch.no_grad():
        hidden = net.hidden(smoothed)
        logits = net.logits(graph, hidden)
    values = torch.stack([*losses, hidden.sum(), logits.sum()])
    steps, remedy = training.steps, "lower Training.lr, and look at the features"
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad and bad[0] < steps:
        raise NonFiniteLoss(f"GCN: the loss is {float(values[bad[0]])} at step {bad[0]} of {steps}; {remedy}")
    if bad:
        raise NonFiniteLoss(f"GCN: its outputs are not finite after step {steps - 1} of {steps}; {remedy}")
    return hidden, logits


def dropout_mask(hidden: Tensor, dropout: float, stream: Stream) -> Tensor:
    """The factors of `hidden` [N,H] in a step: 0 with probability `dropout`, else 1 / (1 - `dropout`)."""
    # twice as fast as `bernoulli_`: 13 ms against 29 ms for 15,000 x 128 on one core
    uniform = torch.rand(hidden.shape, generator=stream.generator(hidden.device), dtype=hidden.dtype, device=hidden.device)
    return uniform.ge_(dropout).div_(1 - dropout)


@dataclass(frozen=True)
class _Learned:
    """A strategy on what the graph net learned of each node."""

    training: Training = Training()

    def __post_init__(self) -> None:
        """Raises ValueError where `training` is not a `Training`."""
        if not isinstance(self.training, Training):
            raise ValueError(f"{type(self).__name__}.training is {self.training!r}: it must be a Training, such as Training(steps=200)")

    def learned(self, query: Query) -> tuple[Tensor, int, Tensor, Tensor]:
        """Global indices i64 [N] of the nodes, first the images that were asked for; the number of those; `learn` of the nodes."""
        name, asked, candidates = type(self).__name__, query.pool.asked, query.candidates
        check_both(name, asked, candidates)
        rows, features = torch.cat([asked, candidates]), query.features
        check_memory(name, len(rows), features, self.training.hidden)
        hidden, logits = learn(Graph.of(features[rows.to(features.device)]), len(asked), self.training, query.stream / "gcn")
        return rows, len(asked), hidden, logits


@dataclass(frozen=True)
class CoreGCN(_Learned):
    """Greedy k-center over the graph net's first layer; the images that were asked for are covered.

    The nodes are all images that were asked for, answered or not, and all candidates. The authors draw 10,000 candidates at random
    (`scopes.RandomSubset`). Memory: O(N D) for N nodes with D features.

    Distances are Euclidean, in one of three spaces:

    - "hidden", the default: the first layer, as the paper says. Ours too: only what was learned of the images counts.
    - "hidden_logit": the first layer and the logit, as in the authors' code since April 2021 (a040272). It is what we call as released.
    - "features": what enters the graph, as in their code of June 2020 (2900cdb). Nothing that was learned is used.

    Source: Caramalau et al. 2021 (CoreGCN).
    """

    space: str = "hidden"

    def __post_init__(self) -> None:
        """Raises ValueError where `training` is not a `Training`, or the space not known."""
        super().__post_init__()
        one_of("CoreGCN.space", self.space, SPACES)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n], in order of choice.

        Raises:
            ValueError: nothing is labelled, there are no candidates, or the features make no graph.
            MemoryError: the graph does not fit.
            NonFiniteLoss: as `learn`.
        """
        rows, asked, hidden, logits = self.learned(query)
        covered = torch.arange(len(rows), device=hidden.device) < asked
        points = torch.cat([hidden, logits[:, None]], dim=1) if self.space == "hidden_logit" else hidden
        if self.space == "features":
            points = query.features[rows.to(query.features.device)]
        return rows[cover.kcenter(points, covered, query.n).cpu()]


@dataclass(frozen=True)
class UncertainGCN(_Learned):
    """Queries the candidates whose probability of being labelled, by the graph net, is nearest to `margin`, nearest first.

    Nodes and memory as in `CoreGCN`. Source: Caramalau et al. 2021 (UncertainGCN), with the margin of the authors' code.
    """

    margin: float = 0.1  # a probability

    def __post_init__(self) -> None:
        """Raises ValueError where `training` is not a `Training`, or the margin not a probability."""
        super().__post_init__()
        if not 0 <= self.margin <= 1:
            raise ValueError(f"UncertainGCN.margin is {self.margin}: it must be a probability, in [0, 1]")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises: as `CoreGCN`."""
        _, asked, _, logits = self.learned(query)
        s = logits[asked:].cpu().double().sigmoid()  # in float32 those close to 0 would tie
        return query.candidates[scores.top(-(s - self.margin).abs(), query.n)]


def needed(nodes: int, width: int, hidden: int, size: int = 4) -> int:
    """Bytes that `learn` takes for `nodes` of `width` features, in numbers of `size` bytes, besides the features themselves.

    Two matrices [N,D]: the graph's features and the smoothed ones. Eight [N,H]: activations, dropout masks and gradients.
    benchmarks/gcn.py measures that.
    """
    return nodes * (2 * width + 8 * hidden) * size


def free(device: torch.device) -> float:
    """Free bytes on `device`: on a GPU those of the driver and of torch's cache. Infinity if unknown. Container limits are not seen."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        import psutil
    except ImportError:  # a machine that has torch and little else
        return math.inf
    return float(psutil.virtual_memory().available)


def check_memory(name: str, nodes: int, features: Tensor, hidden: int) -> None:
    """Raises: MemoryError if a graph of `nodes` with features [...,D] like these does not fit. Called before anything is computed."""
    size = torch.promote_types(features.dtype, torch.float32).itemsize
    need, there = needed(nodes, features.shape[-1], hidden, size), free(features.device)
    if need > there:
        raise MemoryError(
            f"{name}: a graph of N = {nodes:,} images with D = {features.shape[-1]:,} features each takes {need / 1e9:.3g} GB, but "
            f"{features.device} has {there / 1e9:.3g} GB left: score a random subset of the pool (scopes.RandomSubset)"
        )
