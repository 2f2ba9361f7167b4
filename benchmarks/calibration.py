"""Calibration of a linear head on pixels by number of labels: as it is trained, the most probable head, and the mean of an ensemble.

The digits helped to choose the method; Fashion-MNIST chose nothing. Random labels; a seed is a draw of these.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from alnb.data import load
from alnb.learn import heads, metrics
from alnb.learn.nets import linear
from alnb.learn.train import Learner, cross_entropy, fit
from alnb.papers.which_strategy.experiment import HEAD, featured
from alnb.store import Stream
from benchmarks.made import STREAM

LABELS, SEEDS, DRAWS, POOL, TEST = (10, 50, 100, 1000), 10, 20, 4_000, 2_000
BAR = 1.0  # the most probable head must not be worse


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels in [0, 1] and classes: 1,000 for the pool, the others for the test."""
    x, y = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    x, y = (x / 16).float(), y.long()
    return x[:1000], y[:1000], x[1000:], y[1000:]


def fashion() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels in [0, 1] and classes: the first `POOL` of the training images, the first `TEST` of the test images."""
    out = []
    for images, number in zip(load("fashion_mnist"), (POOL, TEST), strict=True):
        out += [images.images.batch(torch.arange(number))[:, 0].flatten(1).float() / 255, images.targets[:number]]
    return out[0], out[1], out[2], out[3]


def trained(x: Tensor, known: Tensor, labels: Tensor, test: Tensor, stream: Stream) -> Tensor:
    """Log-probabilities of the test images by a head as `which_strategy` trains it."""
    learner = Learner(partial(linear, width=x.shape[1]), HEAD, loss=cross_entropy)
    net = learner.build(10, stream)
    fit(net, featured(x), known, labels, learner, stream)
    return net(test).detach().log_softmax(1)


def figures(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Expected calibration error, log loss in nats, accuracy: [3]."""
    right = (log_probs.argmax(1) == targets).float().mean()
    return torch.stack([metrics.calibration_error(log_probs, targets), metrics.negative_log_likelihood(log_probs, targets), right])


def measure() -> Iterator[dict[str, Any]]:
    """For each data set and number of labels, the calibration error of the most probable head over that of the trained one."""
    for name, (x, y, test, targets) in (("digits", digits()), ("Fashion-MNIST", fashion())):
        for labels in LABELS:
            sums = torch.zeros(3, 3)
            for seed in range(SEEDS):
                stream = STREAM / "calibration" / seed
                known = torch.randperm(len(x), generator=stream.generator())[:labels]
                sums[0] += figures(trained(x, known, y[known], test, stream / "trained"), targets)
                sums[1] += figures(heads.ensemble(x, known, y[known], 10).log_probs(test)[..., 0], targets)
                drawn = heads.ensemble(x, known, y[known], 10, DRAWS, (stream / "draws").generator()).log_probs(test)
                sums[2] += figures(drawn.logsumexp(2) - math.log(DRAWS), targets)
            means = sums / SEEDS
            text = "; ".join(
                f"{head} {error:.3f}, {loss:.2f}, {right:.1%}"
                for head, (error, loss, right) in zip(("trained", "most probable", f"mean of {DRAWS}"), means.tolist(), strict=True)
            )
            yield {
                "name": f"calibration error on {name}, {labels:,} labels, of the most probable head, that of the trained one is 1",
                "ratio": float(means[1, 0] / means[0, 0]),
                "bar": BAR,
                "sense": "<=",
                "detail": f"expected calibration error, log loss, accuracy; {SEEDS} seeds: {text}",
            }
