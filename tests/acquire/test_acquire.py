"""The contract of every strategy, and each against its definition."""

from dataclasses import replace
from functools import partial

import pytest
import queries
import torch
from conftest import images_of
from queries import query_of

from alnb.acquire import Strategy, clusters, kmeans, random_with_replacement
from alnb.acquire.query import Pool, Query
from alnb.acquire.scopes import Untrained
from alnb.acquire.vaal import VAAL
from alnb.learn.nets import small
from alnb.learn.train import Learner, Recipe
from alnb.papers.methods import STRATEGIES
from alnb.papers.methods.gcn import CoreGCN, Training, UncertainGCN
from alnb.papers.methods.pal import PAL
from alnb.store import Stream

TRAINING = replace(PAL().recipe, epochs=2, batch=8)
SMALL = {  # their defaults are of the size of CIFAR-10
    "vaal": replace(VAAL(), width=2, hidden=8, updates=2, batch=8),
    "core_gcn": CoreGCN(Training(hidden=8, steps=15)),
    "uncertain_gcn": UncertainGCN(Training(hidden=8, steps=15)),
    "pal": PAL(net=partial(small, width=4), recipe=TRAINING, tuning=TRAINING, part=4),
}
every = pytest.mark.parametrize("strategy", {**STRATEGIES, **SMALL}.values(), ids=list(STRATEGIES))


@every
@pytest.mark.parametrize("n", [1, 7, 50])
def test_contract(strategy: Strategy, n: int) -> None:
    queries.check_contract(strategy, n)


@every
def test_same_seed_same_answer(strategy: Strategy) -> None:
    queries.check_seed(strategy)


@every
def test_only_candidates_are_chosen(strategy: Strategy) -> None:
    queries.check_candidates(strategy)


@every
@pytest.mark.parametrize("chunk", [7, 49, 51])
def test_same_for_any_chunk_size(strategy: Strategy, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries.check_chunks(strategy, chunk, monkeypatch)


@every
def test_no_hidden_target_can_be_reached(strategy: Strategy) -> None:
    queries.check_hidden(strategy)


def test_random_is_uniform_and_depends_on_the_seed() -> None:
    counts, query = torch.zeros(60), query_of(5)
    for seed in range(400):
        counts[STRATEGIES["random"](replace(query, stream=Stream(seed)))] += 1
    free = query.candidates
    assert counts.sum() == 2000 and float((counts[free] - 40).abs().max()) < 30  # five standard deviations


def test_random_with_replacement_gives_fewer_and_all_different() -> None:
    query = replace(query_of(1000), candidates=torch.arange(10_000))
    chosen = random_with_replacement(query)
    assert len(chosen.unique()) == len(chosen) and 930 <= len(chosen) <= 970  # 10,000 (1 - 0.9999^1000) = 951.7


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin"])
def test_uncertainty_strategies_take_the_extreme_ones_in_order(name: str) -> None:
    query = query_of()
    scores = []
    for row in query.log_probs.exp().double().tolist():
        ranked = sorted(row, reverse=True)
        entropy = -sum(p * torch.tensor(p).log().item() for p in row)
        scores.append({"entropy": entropy, "least_confidence": 1 - ranked[0], "margin": ranked[1] - ranked[0]}[name])
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[: query.n]
    assert STRATEGIES[name](query).tolist() == query.candidates[expected].tolist()


def test_kcenter_takes_the_farthest_each_time() -> None:
    query = query_of()
    features, asked, expected = query.features.double(), query.pool.labelled.tolist(), []
    for _ in range(query.n):
        distance = {i: min(float((features[i] - features[j]).norm()) for j in asked) for i in query.candidates.tolist() if i not in asked}
        expected.append(max(distance, key=lambda i: distance[i]))
        asked.append(expected[-1])
    assert STRATEGIES["kcenter"](query).tolist() == expected


def test_kmeans_needs_no_net() -> None:
    """Three bars, three clusters of pixels; with a net, clusters of features."""
    images = images_of(60)
    pool = Pool.of(images.images)
    query = Query(pool, None, pool.unlabelled, 3, Stream(0))
    assert sorted(images.targets[kmeans(query)].tolist()) == [0, 1, 2]
    seed = (Stream(0) / "query" / 1 / "kmeans").seed
    query = query_of(5)
    assert kmeans(query).tolist() == query.candidates[clusters.central(query.features[query.candidates], 5, seed)].tolist()
    with pytest.raises(ValueError, match=r"n = 51 .* of 50"):
        kmeans(query_of(51))


def test_an_untrained_net_is_asked_as_any_other() -> None:
    pool = Pool.of(images_of(60).images)
    query, learner = Query(pool, None, pool.unlabelled, 4, Stream(3) / "query" / 0), Learner(partial(small, width=4), Recipe())
    net = learner.build(3, query.stream / "untrained").eval()
    assert Untrained(learner, 3, STRATEGIES["margin"])(query).tolist() == STRATEGIES["margin"](replace(query, net=net)).tolist()
