"""PT4AL's batches and choices, against the definitions and the authors' files."""

from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from queries import query_of

from alnb import acquire
from alnb.acquire.query import Query
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.papers.methods import pt4al
from alnb.papers.methods.pt4al import LossBatch, batch, evenly, highest, lowest, ranking


def sided(cycle: int = 1, n: int = 3, **changes: object) -> Query:
    losses = torch.rand(60, generator=torch.Generator().manual_seed(3))
    return replace(query_of(n), cycle=cycle, side={pt4al.LOSS: losses}, **changes)


def published_losses() -> torch.Tensor:
    """50,000 losses with the percentiles of the file that the authors published."""
    share = [0, 1, 5, 8.158, 10, 25, 50, 75, 90, 95, 98.158, 99, 100]  # percentiles of the losses; methods.md, section 15
    value = [1.5e-7, 7.7e-6, 4.9e-5, 1e-4, 1.4e-4, 1.2e-3, 0.0152, 0.103, 0.348, 0.589, 0.966, 1.23, 4.41]
    ranks = (numpy.random.default_rng(0).permutation(50_000) + 0.5) / 500
    return torch.from_numpy(numpy.exp(numpy.interp(ranks, share, numpy.log(value))))


def test_all_ten_batches_are_those_of_the_texts() -> None:
    losses = published_losses()
    ranked, numbers = ranking(losses, key="text"), ranking(losses)
    naive = sorted(range(50_000), key=[repr(value) for value in losses.tolist()].__getitem__, reverse=True)
    for k in range(10):
        assert batch(ranked, 10, k).tolist() == naive[5_000 * k : 5_000 * (k + 1)]
        assert len(set(naive[5_000 * k : 5_000 * (k + 1)]) & set(batch(numbers, 10, k).tolist())) == 921


def test_text_order_overlaps_numeric_order_in_921_of_5000() -> None:
    """4,079 of 50,000 losses are below 1e-4, as in that file: the "hardest" batch is the easiest."""
    losses = published_losses()
    assert int((losses < 1e-4).sum()) == 4079
    numeric = batch(ranking(losses), 10, 0)
    assert set(numeric.tolist()) == set(numpy.argsort(-losses.numpy())[:5000].tolist())  # 5,000 of 5,000
    text = batch(ranking(losses, key="text"), 10, 0)
    assert len(set(numeric.tolist()) & set(text.tolist())) == 921
    assert int((losses[text] < 1e-4).sum()) == 4079


@given(st.lists(st.floats(1e-9, 9.0), min_size=2, max_size=40, unique=True), st.sampled_from(pt4al.KEYS), st.sampled_from(pt4al.ORDERS))
def test_every_ranking_is_a_permutation_in_its_order(values: list[float], key: str, order: str) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    ranked = ranking(losses, key=key, order=order)
    assert sorted(ranked.tolist()) == list(range(len(values)))
    if key == "float":
        naive = sorted(range(len(values)), key=lambda i: values[i], reverse=order == "high_first")
    elif key == "text":
        naive = [i for _, i in sorted(((repr(v), i) for i, v in enumerate(values)), reverse=order == "high_first")]
    else:
        naive = ranking(losses.flip(0), key=key).tolist()  # depends on the number of images only
    assert ranked.tolist() == naive


@given(st.integers(1, 60), st.integers(1, 60))
def test_batches_are_a_partition_of_equal_sizes(n: int, batches: int) -> None:
    if batches > n:
        with pytest.raises(ValueError, match=f"{n} images cannot be cut into {batches} batches"):
            batch(torch.arange(n), batches, 0)
        return
    parts = [batch(torch.arange(n), batches, k).tolist() for k in range(batches)]
    assert [index for part in parts for index in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_cycle_chooses_from_its_own_batch() -> None:
    query = sided(n=2)
    ranked = ranking(query.side[pt4al.LOSS])
    for k in range(4):
        chosen = LossBatch(batches=4)(replace(query, cycle=k))
        expected = [i for i in ranked[15 * k : 15 * k + 15].tolist() if i in query.candidates.tolist()]
        assert chosen.tolist() == expected  # in the order of the losses, without labelled images


def test_first_is_the_batch_of_the_first_cycle_alone() -> None:
    query = sided(n=2)
    scope, plain = LossBatch(batches=4, first=2), LossBatch(batches=4)
    assert torch.equal(scope(replace(query, cycle=0)), plain(replace(query, cycle=2)))
    assert torch.equal(scope(replace(query, cycle=1)), plain(replace(query, cycle=1)))


def test_even_intervals() -> None:
    query = sided()
    assert evenly(replace(query, candidates=torch.arange(5000), n=1000)).tolist() == list(range(0, 5000, 5))
    assert evenly(replace(query, candidates=torch.arange(10), n=4)).tolist() == [0, 2, 5, 7]
    assert highest(replace(query, candidates=torch.tensor([9, 4, 7]), n=2)).tolist() == [9, 4]
    assert lowest(replace(query, candidates=torch.tensor([9, 4, 7]), n=2)).tolist() == [7, 4]


def test_any_scope_goes_with_any_strategy() -> None:
    query = sided(n=4)
    inside = set(LossBatch(batches=3)(query).tolist())
    for name in ("random", "entropy", "least_confidence", "margin", "kcenter"):
        chosen = Scoped(LossBatch(batches=3), acquire.STRATEGIES[name])(query).tolist()
        assert len(set(chosen)) == 4 and set(chosen) <= inside
    lowest = Scoped(LossBatch(batches=3), acquire.least_confidence)(query)
    confidence = dict(zip(query.candidates.tolist(), query.log_probs.exp().amax(1).tolist(), strict=True))
    assert lowest.tolist() == sorted(inside, key=lambda i: confidence[i])[:4]


def test_a_random_subset_is_a_part_of_the_candidates_and_another_one_each_cycle() -> None:
    drawn = RandomSubset(20)(sided())
    assert len(set(drawn.tolist())) == 20 and drawn.tolist() == sorted(drawn.tolist())
    assert set(drawn.tolist()) < set(sided().candidates.tolist()) and torch.equal(drawn, RandomSubset(20)(sided()))
    assert RandomSubset(500)(sided()).tolist() == sided().candidates.tolist()
    assert not torch.equal(drawn, RandomSubset(20)(replace(query_of(seed=1), side={})))
    with pytest.raises(ValueError, match=r"RandomSubset.size is 2, .* 3 images"):
        RandomSubset(2)(sided())
    with pytest.raises(ValueError, match=r"RandomSubset.size is 0"):
        RandomSubset(0)


def test_a_random_segmentation_needs_no_losses_and_stays_the_same() -> None:
    parts = [LossBatch(batches=4, key="random", seed=5)(replace(query_of(2), cycle=k)).tolist() for k in range(4)]
    assert sorted(index for part in parts for index in part) == query_of().candidates.tolist()


def test_normalised_confidence_against_a_naive_loop() -> None:
    query = sided(n=50)
    naive = {}
    for index in query.candidates.tolist():
        logits = query.net(query.pool.images.batch(torch.tensor([index])).float() / 255)[0].detach()
        naive[index] = float(torch.softmax(logits / logits.square().sum().sqrt(), dim=0).max())
    chosen = pt4al.normalised_confidence(query).tolist()
    assert chosen == sorted(naive, key=naive.__getitem__)
    assert chosen != acquire.least_confidence(query).tolist()  # not the order of the posterior


def test_bad_input() -> None:
    query = sided()
    with pytest.raises(ValueError, match=r"batch 4 .* at most 4 cycles"):
        LossBatch(batches=4)(replace(query, cycle=4))
    with pytest.raises(ValueError, match=r"cycle 1: 40 images .* batch 1 of 4 has 13 candidates"):
        LossBatch(batches=4)(replace(query, n=40))
    with pytest.raises(ValueError, match=r"pretext_loss.* \[60\] .* None"):
        LossBatch(batches=4)(query_of())
    with pytest.raises(ValueError, match=r"\[60\] .* shape \[5\]"):
        LossBatch(batches=4)(replace(query, side={pt4al.LOSS: torch.rand(5)}))
    with pytest.raises(ValueError, match=r"5 losses .* 0\.5"):
        ranking(torch.full((5,), 0.5))
    with pytest.raises(ValueError, match=r"1 of 3 losses .* image 1"):
        ranking(torch.tensor([0.0, torch.nan, 1.0]))
    with pytest.raises(ValueError, match="key is 'number'"):
        ranking(torch.rand(3), key="number")
    for changes, message in (
        ({"batches": 0}, "LossBatch.batches is 0"), ({"first": 10}, "LossBatch.first is 10: .* 8, 9$"),
        ({"order": "up"}, "LossBatch.order is 'up'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            LossBatch(**changes)
