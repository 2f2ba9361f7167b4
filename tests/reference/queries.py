"""Queries for tests, and the contract that every strategy must keep."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch
from conftest import images_of
from torch import Tensor

from alnb.acquire import Strategy
from alnb.acquire.query import Pool, Query, check_query
from alnb.data import Resident
from alnb.learn.nets import small
from alnb.papers.methods.learning_loss import loss_net
from alnb.store import Stream

with (Stream(0) / "contract").scope():
    FIXED = small(3, width=4)


def query_of(n: int = 7, seed: int = 0, candidates: Tensor | None = None) -> Query:
    """Of 60 images, 10 of them labelled, of two classes."""
    images = images_of(60)
    labelled = torch.arange(0, 60, 6) + torch.arange(10) % 2
    pool = Pool.of(images.images).acquire(labelled, images.targets[labelled], 0)
    net = small(3, width=4).eval()
    net.load_state_dict(FIXED.state_dict())
    return Query(pool, net, pool.unlabelled if candidates is None else candidates, n, Stream(seed) / "query" / 1)


def with_module(n: int = 7, seed: int = 0, candidates: Tensor | None = None) -> Query:
    """As `query_of`, with a net that predicts losses."""
    with (Stream(0) / "module").scope():
        net = loss_net(3, net=partial(small, width=4))
    return replace(query_of(n, seed, candidates), net=net.eval())


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The images that will be asked for, batch by batch."""
    seen: list[list[int]] = []
    original = Resident.batch

    def spy(self: Resident, indices: Tensor) -> Tensor:
        seen.append(indices.tolist())
        return original(self, indices)

    monkeypatch.setattr(Resident, "batch", spy)
    return seen


# ---- the contract --------------------------------------------------------------------------------------------------------------

Make = Callable[..., Query]  # as `query_of`


def check_contract(strategy: Strategy, n: int, make: Make = query_of) -> None:
    """The answer is i64 [n]: different candidates, none asked for before. The query does not change."""
    query = make(n)
    tensors = query.pool.labels, query.pool.acquired, query.candidates, *query.net.state_dict().values()
    before = [tensor.clone() for tensor in tensors]
    check_query(strategy(query), query, "the strategy")
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True)) and not query.net.training


def check_seed(strategy: Strategy, make: Make = query_of) -> None:
    """The same query gives the same answer. The global stream neither matters nor changes."""
    torch.manual_seed(1)
    first = strategy(make())
    query = make()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, strategy(query))
    assert torch.equal(state, torch.get_rng_state())


def check_candidates(strategy: Strategy, make: Make = query_of) -> None:
    """Only candidates are chosen; all of them if n is their number."""
    few = torch.tensor([1, 5, 9, 13, 33, 50, 59])
    assert strategy(make(7, candidates=few)).sort().values.tolist() == few.tolist()
    assert set(strategy(make(3, candidates=few)).tolist()) < set(few.tolist())


def check_chunks(strategy: Strategy, chunk: int, monkeypatch: pytest.MonkeyPatch, make: Make = query_of) -> None:
    """The answer does not depend on how many images pass through a net together."""
    expected = strategy(make())
    monkeypatch.setattr("alnb.learn.train.predict.__kwdefaults__", {"chunk": chunk})
    assert torch.equal(expected, strategy(make()))


def reachable(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that can be reached from `thing` through attributes, closures and containers."""
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | ModuleType | None):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    inner = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    inner += list(thing.values()) if isinstance(thing, dict) else list(thing) if isinstance(thing, list | tuple | set) else []
    for item in inner:
        yield from reachable(item, seen)


def check_hidden(strategy: Strategy, make: Make = query_of) -> None:
    """No unpaid label can be reached from a query with all its cached views."""
    query = make()
    strategy(query)
    truth, hidden = images_of(60).targets, query.candidates
    tensors = list(reachable(query, set()))
    assert any(tensor is query.pool.labels for tensor in tensors) and len(tensors) > 10
    for tensor in tensors:
        if tensor.shape[:1] == truth.shape and tensor.ndim == 1:
            assert not torch.equal(tensor[hidden].long(), truth[hidden])


def check_all(strategy: Strategy, monkeypatch: pytest.MonkeyPatch, make: Make = query_of) -> None:
    """Every check above."""
    for n in (1, 7, 50):
        check_contract(strategy, n, make)
    check_seed(strategy, make)
    check_candidates(strategy, make)
    check_hidden(strategy, make)
    check_chunks(strategy, 7, monkeypatch, make)
