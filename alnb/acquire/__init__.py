"""Acquisition: pure maths in `scores` and `cover`, and `STRATEGIES`, every one a callable ``(Query) -> indices i64 [n]``."""

from collections.abc import Callable

import torch
from torch import Tensor

from alnb.acquire import scores
from alnb.acquire.bayes import BALD, BatchBALD
from alnb.acquire.clusters import TCM, kmeans, typiclust
from alnb.acquire.coverage import DCoM, Herding, ProbCover, kcenter
from alnb.acquire.hybrid import ClusterMargin, Power, badge
from alnb.acquire.query import Query
from alnb.acquire.svm import SvmMargin
from alnb.acquire.vaal import CLEAN

Strategy = Callable[[Query], Tensor]
"""From a query to `query.n` different global indices i64 out of `query.candidates`, in order of choice."""


def random(query: Query) -> Tensor:
    """Uniformly, without replacement."""
    return query.candidates[torch.randperm(len(query.candidates), generator=(query.stream / "random").generator())[: query.n]]


def random_with_replacement(query: Query) -> Tensor:
    """Uniformly with replacement, a defect of the code of CoreGCN and TA-VAAL: 1,000 draws from 10,000 give about 952 different images.

    Kept because published baselines have it. Its protocol must be `exact=False`.
    """
    drawn = torch.randint(len(query.candidates), (query.n,), generator=(query.stream / "random").generator()).tolist()
    return query.candidates[list(dict.fromkeys(drawn))]


def entropy(query: Query) -> Tensor:
    """The largest entropy of the predicted distribution. Source: Shannon 1948; Settles 2009, section 3.1."""
    return query.candidates[scores.top(scores.per_image(scores.entropy(query.log_probs)), query.n)]


def least_confidence(query: Query) -> Tensor:
    """The smallest probability of the most probable class. Source: Settles 2009, section 3.1."""
    return query.candidates[scores.top(scores.per_image(scores.least_confidence(query.log_probs)), query.n)]


def margin(query: Query) -> Tensor:
    """The smallest gap between the two most probable classes. Source: Scheffer et al. 2001."""
    return query.candidates[scores.top(-scores.per_image(scores.margin(query.log_probs)), query.n)]


STRATEGIES: dict[str, Strategy] = {
    "random": random,
    "entropy": entropy,
    "least_confidence": least_confidence,
    "margin": margin,
    "kcenter": kcenter,
    "svm_margin": SvmMargin(),
    "vaal": CLEAN,
    "kmeans": kmeans,
    "typiclust": typiclust,
    "prob_cover": ProbCover(),
    "max_herding": Herding(),
    "uherding": Herding(uncertain=True),
    "dcom": DCoM(),
    "tcm": TCM(),
    "badge": badge,
    "bald": BALD(),
    "batch_bald": BatchBALD(),
    "cluster_margin": ClusterMargin(),
    "power_margin": Power(),
}
