"""Every strategy at the size of CIFAR-10 in the frozen arm: seconds for 1,000 picks and for 10, extra memory, and scikit-activeml's speed.

The features are made up, as in `benchmarks.kcenter`; the net is a linear classifier trained on the labelled ones. A query starts without
cached views, so its seconds hold the predictions too.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alnb.acquire import STRATEGIES
from alnb.acquire.query import Pool, Query
from alnb.data import Embedded, Resident
from alnb.learn.nets import linear
from alnb.learn.train import Learner, Recipe, fit
from benchmarks.made import STREAM, clusters, extra_memory

N, D, CLASSES, LABELLED, PICKS, FEW = 50_000, 512, 10, 1_000, 1_000, 10
BARS = {  # seconds for `PICKS` picks: issue 19
    "badge": 20.0,
    "typiclust": 20.0,
    "prob_cover": 30.0,
    "max_herding": 60.0,
    "uherding": 60.0,
    "cluster_margin": 15.0,
    "bald": 5.0,
}
TRAINED = ("vaal", "pal", "core_gcn", "uncertain_gcn", "svm_margin")  # they train a model of their own; they have no bar
STEP, MEMORY, FASTER = 1.0, 1.0, 10.0  # the other bars: seconds for `FEW` picks; GB beyond the query's own views; times faster
SMALL, SMALL_LABELLED, SMALL_PICKS = 10_000, 100, 100  # beside scikit-activeml
PEERS = {"typiclust": "TypiClust", "prob_cover": "ProbCover", "badge": "Badge", "max_herding": "MaxHerding"}
Row = dict[str, Any]


def query_of(size: int = N, labelled: int = LABELLED, n: int = PICKS) -> Query:
    """A query of `n` images from `size`, `labelled` of them with the class of the nearest of ten of them, and a net that learned these."""
    features = clusters(size, D, 50, STREAM / "clustered", (0.1, 1.0))
    targets = torch.cdist(features, features[:CLASSES]).argmin(1)
    known = torch.randperm(size, generator=(STREAM / "covered").generator())[:labelled]
    images = Embedded(Resident(torch.zeros(size, 3, 1, 1, dtype=torch.uint8)), features)
    pool = Pool.of(images).acquire(known, targets[known], 0)
    learner = Learner(partial(linear, width=D), Recipe(epochs=20, lr=0.01))
    net = learner.build(CLASSES, STREAM / "net")
    fit(net, images, pool.labelled, pool.labels[pool.labelled], learner, STREAM / "net")
    return Query(pool, net.eval(), pool.unlabelled, n, STREAM / "query", cycle=1)


def seconds(function: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def timed(query: Query, names: dict[str, float], repeats: int = 1) -> Iterator[Row]:
    """A row for each strategy of `names`, with its bar: the seconds of one query, the smallest of `repeats`."""
    for name, bar in names.items():
        row: Row = {"name": f"{name}: seconds for {query.n} picks", "ratio": float("nan"), "bar": bar, "sense": "<="}
        if name in STRATEGIES:
            row["ratio"] = min(seconds(partial(STRATEGIES[name], replace(query))) for _ in range(repeats))
        sizes = f"{len(query.pool)} x {D} in 50 clusters, {len(query.pool.labelled)} labelled, {torch.get_num_threads()} threads"
        yield row | {"detail": sizes if name in STRATEGIES else "not measured: it is not in STRATEGIES"}


PREPARE = """
from alnb.acquire import STRATEGIES
from benchmarks import strategies
STRATEGIES[{name!r}](strategies.query_of(2_000, 100, 50))  # what libraries allocate once and for all
query = strategies.query_of({size}, {labelled}, {picks})
query.features, query.log_probs
"""


def memory(name: str, size: int = N, labelled: int = LABELLED, picks: int = PICKS) -> Row:
    """Peak memory of a query beyond its features and predictions."""
    prepare = PREPARE.format(name=name, size=size, labelled=labelled, picks=picks)
    extra, failure = extra_memory(prepare, f"STRATEGIES[{name!r}](query)")
    detail = f"peak resident size of a fresh process during the query of {picks} picks less its size before, of {size} x {D} features"
    return {"name": f"{name}: extra peak memory in GB", "ratio": extra / 1e9, "bar": MEMORY, "sense": "<=", "detail": failure or detail}


def theirs(name: str, query: Query) -> Callable[[], Any]:
    """The query as scikit-activeml asks it, with a classifier that is trained already where it needs one."""
    from skactiveml import pool as peers  # type: ignore[import-not-found]
    from skactiveml.classifier import SklearnClassifier  # type: ignore[import-not-found]
    from sklearn.linear_model import LogisticRegression

    features, known = query.features.numpy(), query.pool.labelled
    labels = torch.full((len(query.pool),), torch.nan).index_put((known,), query.pool.labels[known].float()).numpy()
    peer = getattr(peers, PEERS[name])(random_state=0)
    if name != "badge":
        return partial(peer.query, features, labels, batch_size=query.n)
    model = SklearnClassifier(LogisticRegression(max_iter=200), classes=list(range(CLASSES))).fit(features, labels)
    return partial(peer.query, features, labels, model, fit_clf=False, batch_size=query.n)


def against_peers(query: Query) -> Iterator[Row]:
    """A row for each strategy that scikit-activeml has too: its seconds divided by ours, one run of it after the best of three of ours."""
    for name, peer in PEERS.items():
        row: Row = {"name": f"{name}: speed against skactiveml.pool.{peer}", "ratio": float("nan"), "bar": FASTER, "sense": ">="}
        try:
            other = theirs(name, query)
        except ImportError:
            yield row | {"detail": "not measured: scikit-activeml is missing; pip install -e .[test]"}
            continue
        if name not in STRATEGIES:
            yield row | {"detail": "not measured: it is not in STRATEGIES"}
            continue
        ours, reference = min(seconds(partial(STRATEGIES[name], replace(query))) for _ in range(3)), seconds(other)
        detail = f"{len(query.pool)} x {D}, {len(query.pool.labelled)} labelled, {query.n} picks: {ours:.3f} s against {reference:.2f} s"
        yield row | {"ratio": reference / ours, "detail": detail}


def measure() -> Iterator[Row]:
    """Rows for the table of benchmarks: about ten minutes."""
    query = query_of()
    yield from timed(query, BARS)
    yield from timed(replace(query, n=FEW), {name: STEP for name in STRATEGIES if name not in TRAINED}, repeats=2)
    for name in BARS:
        if name in STRATEGIES:
            yield memory(name)
    yield from against_peers(query_of(SMALL, SMALL_LABELLED, SMALL_PICKS))
