import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alnb.acquire.query import VOID, Pool, Query, check_query
from alnb.data import ImageSet, Resident
from alnb.learn.nets import small
from alnb.store import Stream


def pool_of(n: int) -> Pool:
    return Pool.of(Resident(torch.zeros(n, 3, 8, 8, dtype=torch.uint8)))


@given(st.integers(1, 40), st.data())
def test_the_pool_is_what_a_dict_would_be(n: int, data: st.DataObject) -> None:
    pool, known, since = pool_of(n), {}, {}
    for cycle in range(data.draw(st.integers(0, 4))):
        free = [i for i in range(n) if i not in since]
        asked = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=5)) if free else []
        labels = [data.draw(st.integers(VOID, 4)) for _ in asked]
        before = pool.labels.clone(), pool.acquired.clone()
        older, pool = pool, pool.acquire(torch.tensor(asked, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64), cycle)
        assert torch.equal(older.labels, before[0]) and torch.equal(older.acquired, before[1])
        since.update(dict.fromkeys(asked, cycle))
        known.update({i: label for i, label in zip(asked, labels, strict=True) if label != VOID})
    assert pool.labelled.tolist() == sorted(known)
    assert pool.labels[pool.labelled].tolist() == [known[i] for i in sorted(known)]
    assert pool.unlabelled.tolist() == [i for i in range(n) if i not in since] and pool.asked.tolist() == sorted(since)
    assert [int(pool.acquired[i]) for i in since] == list(since.values())


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([3, 3], "indices 3 occur"),
        ([1], "images 1 .* cycle 0"),
        ([10], "indices 10 are outside the pool of 10 images"),
        ([-1], "indices -1"),
        ([0.5], "float32"),
        ([[2]], r"int64 \[1, 1\]"),
    ],
)
def test_bad_indices_are_refused(indices: list, message: str) -> None:
    pool = pool_of(10).acquire(torch.tensor([1]), torch.tensor([0]), 0)
    with pytest.raises(ValueError, match=message):
        pool.acquire(torch.tensor(indices), torch.zeros(len(indices), dtype=torch.int64), 1)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 indices, but 1 labels"):
        pool_of(3).acquire(torch.tensor([0, 1]), torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="3 images, 2 labels"):
        Pool(pool_of(3).images, torch.zeros(2), torch.zeros(3))


def test_a_label_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image 1 .*acquired\[1\] is -1"):
        Pool(pool_of(3).images, torch.tensor([VOID, 4, VOID]), torch.tensor([0, -1, -1]))


@pytest.mark.parametrize(
    ("chosen", "exact", "message"),
    [([2, 5], True, "2 indices, expected 3"), ([], False, "0 indices, expected 3"), ([2, 3, 5], True, "image 3 is not among the 4")],
)
def test_an_answer_that_is_no_query_is_refused(chosen: list[int], exact: bool, message: str) -> None:
    query = Query(pool_of(10), None, torch.tensor([2, 5, 7, 9]), 3, Stream())
    with pytest.raises(ValueError, match=f"margin: .*{message}"):
        check_query(torch.tensor(chosen, dtype=torch.int64), query, "margin", exact=exact)
    check_query(torch.tensor([5, 2]), query, "margin", exact=False)


def test_a_query_computes_its_views_once_and_holds_no_target(train: ImageSet) -> None:
    net, calls = small(3, width=4).eval(), []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    query = Query(Pool.of(train.images), net, torch.tensor([4, 7, 50]), 2, Stream())
    assert query.log_probs.shape == (3, 3) and query.features.shape == (60, 16)
    torch.testing.assert_close(query.log_probs.exp().sum(1), torch.ones(3))
    torch.testing.assert_close(query.log_probs, net.head(query.features[query.candidates]).log_softmax(1), rtol=1e-4, atol=1e-5)
    assert query.log_probs is query.log_probs and len(calls) == 1


def test_without_a_net_there_are_no_scores(train: ImageSet) -> None:
    with pytest.raises(ValueError, match="no trained net"):
        _ = Query(Pool.of(train.images), None, torch.tensor([1]), 1, Stream()).log_probs
