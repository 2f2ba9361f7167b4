"""The contract of every strategy, and each against its definition."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch
from conftest import images_of

from alnb.acquire import STRATEGIES, Strategy
from alnb.acquire.gcn import CoreGCN, Training, UncertainGCN
from alnb.acquire.pal import PAL
from alnb.acquire.query import Pool, Query
from alnb.acquire.vaal import VAAL
from alnb.learn.nets import small
from alnb.acquire.query import check_query
from alnb.store import streams as rng

TRAINING = replace(PAL().recipe, epochs=2, batch=8)
SMALL = {  # their defaults are of the size of CIFAR-10
    "vaal": replace(VAAL(), width=2, hidden=8, updates=2, batch=8),
    "core_gcn": CoreGCN(Training(hidden=8, steps=15)),
    "uncertain_gcn": UncertainGCN(Training(hidden=8, steps=15)),
    "pal": PAL(net=partial(small, width=4), recipe=TRAINING, tuning=TRAINING, part=4),
}
every = pytest.mark.parametrize("strategy", {**STRATEGIES, **SMALL}.values(), ids=list(STRATEGIES))


def query_of(n: int = 7, seed: int = 0, candidates: torch.Tensor | None = None) -> Query:
    images = images_of(60)
    labelled = torch.arange(0, 60, 6) + torch.arange(10) % 2  # of two classes
    pool = Pool.of(images.images).acquire(labelled, images.targets[labelled], 0)
    net = small(3, width=4).eval()
    with torch.no_grad():
        for p, q in zip(net.parameters(), FIXED.parameters(), strict=True):
            p.copy_(q)
    return Query(pool, net, pool.unlabelled if candidates is None else candidates, n, rng.generator(seed, "query", 1))


with rng.scope(0, "contract"):
    FIXED = small(3, width=4)


@every
@pytest.mark.parametrize("n", [1, 7, 50])
def test_contract(strategy: Strategy, n: int) -> None:
    query = query_of(n)
    before = query.pool.labels.clone(), query.pool.acquired.clone(), query.candidates.clone(), [p.clone() for p in query.net.parameters()]
    chosen = strategy(query)
    check_query(chosen, query, "it")  # i64, exactly n, all different, unlabelled, among the candidates
    after = query.pool.labels, query.pool.acquired, query.candidates, list(query.net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before[3], after[3], strict=True)) and not query.net.training


@every
def test_same_seed_same_answer(strategy: Strategy) -> None:
    torch.manual_seed(1)
    first = strategy(query_of())
    torch.manual_seed(2)  # the global stream does not matter
    assert torch.equal(first, strategy(query_of()))


@every
def test_only_candidates_are_chosen(strategy: Strategy) -> None:
    some = torch.tensor([1, 5, 9, 13, 33, 50, 59])
    assert strategy(query_of(7, candidates=some)).sort().values.tolist() == some.tolist()
    assert set(strategy(query_of(3, candidates=some)).tolist()) < set(some.tolist())


@every
@pytest.mark.parametrize("chunk", [7, 49, 51])
def test_same_for_any_chunk_size(strategy: Strategy, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = strategy(query_of())
    monkeypatch.setattr("alnb.learn.train.predict.__kwdefaults__", {"chunk": chunk})
    assert torch.equal(expected, strategy(query_of()))


def reachable(thing: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """All tensors that can be reached from `thing` through attributes, closures and containers."""
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | ModuleType | None):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
        return
    inner = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    inner += list(thing.values()) if isinstance(thing, dict) else list(thing) if isinstance(thing, list | tuple | set) else []
    for item in inner:
        yield from reachable(item, seen)


@every
def test_no_hidden_target_can_be_reached(strategy: Strategy) -> None:
    query = query_of()
    strategy(query)  # with all its cached views
    truth, hidden = images_of(60).targets, query.candidates
    tensors = list(reachable(query, set()))
    assert any(tensor is query.pool.labels for tensor in tensors) and len(tensors) > 10
    for tensor in tensors:
        if tensor.shape[:1] == truth.shape and tensor.ndim == 1:
            assert not torch.equal(tensor[hidden].long(), truth[hidden])


def test_random_is_uniform_and_depends_on_the_seed() -> None:
    counts = torch.zeros(60)
    for seed in range(400):
        counts[STRATEGIES["random"](query_of(5, seed))] += 1
    free = query_of().candidates
    assert counts.sum() == 2000 and float((counts[free] - 40).abs().max()) < 30  # five standard deviations


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
