from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alnb.acquire import cover
from alnb.store import Stream

KINDS = ("gaussian", "clustered", "flat", "few", "grid")


def features(kind: str, N: int, D: int, seed: int = 0) -> Tensor:
    """Float32 [N, D] of several shapes; grid and few have many exact ties and duplicates."""
    g = (Stream(seed) / "features" / kind).generator()
    noise = torch.randn(N, D, generator=g)
    match kind:
        case "gaussian":
            return noise
        case "clustered":
            which = torch.randint(5, (N,), generator=g)
            return (torch.randn(5, D, generator=g)[which] + torch.rand(5, 1, generator=g)[which] * noise).relu()
        case "flat":
            return torch.randn(N, 2, generator=g) @ torch.randn(2, D, generator=g)
        case "few":
            return torch.randn(4, D, generator=g)[torch.randint(4, (N,), generator=g)]
        case _:
            return torch.randint(3, (N, D), generator=g).float()


def mask(N: int, covered: Any) -> Tensor:
    return torch.zeros(N, dtype=torch.bool).index_fill_(0, torch.as_tensor(covered, dtype=torch.long), True)


def naive(x: Tensor, covered: Tensor, n: int) -> tuple[list[int], list[float]]:
    """Textbook greedy in direct differences, one full scan per centre. Picks, and the distance of each."""
    x = x if x.dtype == torch.float64 else x.float()
    nearest = torch.full_like(x[:, 0], torch.inf)
    for centre in covered.nonzero()[:, 0].tolist():
        nearest = nearest.minimum(torch.linalg.vector_norm(x - x[centre], dim=1))
    nearest[covered] = -torch.inf
    picks, distances = [], []
    for k in range(n):
        cold = k == 0 and not covered.any()
        pick = int(torch.linalg.vector_norm(x - x.mean(0), dim=1).argmin() if cold else nearest.argmax())
        picks.append(pick)
        distances.append(float(nearest[pick]))
        nearest = nearest.minimum(torch.linalg.vector_norm(x - x[pick], dim=1))
        nearest[pick] = -torch.inf
    return picks, distances


def covering_radii(x: Tensor, covered: Any, picks: Tensor) -> list[float]:
    """The largest distance to the covered set after every pick, in float64."""
    x = x.double()
    nearest = (
        torch.cdist(x, x[covered], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        if covered.any()
        else torch.full((len(x),), torch.inf, dtype=x.dtype)
    )
    radii = []
    for pick in picks.tolist():
        nearest = nearest.minimum((x - x[pick]).norm(dim=1))
        radii.append(float(nearest.amax()))
    return radii


@pytest.mark.slow
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 9), st.integers(0, 99), st.data())
@settings(deadline=None, max_examples=150)
def test_kcenter_is_textbook_greedy(kind: str, N: int, D: int, seed: int, data: st.DataObject) -> None:
    x = features(kind, N, D, seed)
    covered = mask(N, data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=N)))
    n, block = data.draw(st.integers(0, int((~covered).sum()))), data.draw(st.sampled_from([1, 2, 7, 64]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "BLOCK", block)
        picks, distances = cover.farthest_first(x, covered, n)
    assert (picks.tolist(), distances.tolist()) == naive(x, covered, n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("covered", [range(0, 600, 7), [5], []])
def test_larger_pools_and_any_block_size(kind: str, covered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, covered = features(kind, 600, 40), mask(600, list(covered))
    expected = naive(x, covered, 150)
    for block in (8, 100, 1024):
        monkeypatch.setattr(cover, "BLOCK", block)
        picks, distances = cover.farthest_first(x, covered, 150)
        assert picks.tolist() == expected[0]
        assert distances.tolist() == expected[1]
    assert picks.dtype == torch.int64 and cover.kcenter(x, covered, 150).equal(picks)


def test_several_scans_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    x, covered = features("clustered", 600, 16), mask(600, range(300))
    expected = cover.kcenter(x, covered, 100)
    monkeypatch.setattr(cover, "SCAN", 64)
    monkeypatch.setattr(cover, "BLOCK", 16)
    assert cover.kcenter(x, covered, 100).equal(expected)


def test_distances_are_the_covering_radii() -> None:
    x, covered = features("clustered", 400, 20), mask(400, range(10))
    picks, distances = cover.farthest_first(x, covered, 390)
    radii = covering_radii(x, covered, picks)
    assert distances[1:].tolist() == pytest.approx(radii[:-1], rel=1e-5)
    assert radii[-1] == 0 and (distances.diff() <= 0).all()


@pytest.mark.parametrize("covered", [[], [3]])
def test_identical_features_are_picked_once_each_in_order(covered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cover, "BLOCK", 16)
    free = [i for i in range(300) if i not in covered]
    picks, distances = cover.farthest_first(torch.ones(300, 8), mask(300, covered), len(free))
    assert picks.tolist() == free
    assert (distances[1:] == 0).all()


def test_everything_uncovered_can_be_picked() -> None:
    covered = mask(200, range(0, 200, 3))
    picks = cover.kcenter(features("few", 200, 6), covered, int((~covered).sum()))
    assert sorted(picks.tolist()) == (~covered).nonzero()[:, 0].tolist()
    assert cover.kcenter(torch.randn(3, 2, generator=Stream().generator()), mask(3, [0, 1, 2]), 0).tolist() == []


def test_a_cold_start_begins_nearest_to_the_mean() -> None:
    x = torch.tensor([[9.0, 0], [1, 0], [0, 0], [-10, 0]])
    assert cover.kcenter(x, mask(4, []), 4).tolist() == [2, 3, 0, 1]


def test_large_norms_do_not_drown_small_distances() -> None:
    """At 1e4 from the origin, float32 squares are 8 apart: the Gram form alone sees only noise in distances of about 1."""
    steps = torch.randint(-8, 9, (500, 16), generator=Stream(1).generator()) / 8
    far = torch.zeros(500, 16).index_fill_(0, torch.arange(0, 500, 2), 1e4) + steps
    covered = mask(500, [0, 1])
    assert cover.farthest_first(far, covered, 100)[0].tolist() == naive(far, covered, 100)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cover, "BLOCK", 32)
    x, covered = features("clustered", 300, 24).to(dtype), mask(300, range(20))
    picks, distances = cover.farthest_first(x, covered, 80)
    assert picks.tolist() == naive(x, covered, 80)[0]
    assert distances.dtype == torch.promote_types(dtype, torch.float32)


def test_autocast_and_reduced_products_change_nothing() -> None:
    x, covered = features("clustered", 600, 64), mask(600, range(50))
    expected = cover.kcenter(x, covered, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cover.kcenter(x, covered, 100).equal(expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert cover.kcenter(x, covered, 100).equal(expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_inputs_are_left_alone() -> None:
    x, covered = features("gaussian", 50, 4).requires_grad_(), mask(50, [1])
    before = x.detach().clone()
    cover.kcenter(x, covered, 9)
    assert x.detach().equal(before) and covered.sum() == 1


@pytest.mark.parametrize(("n", "covered"), [(4, [0]), (-1, [])])
def test_refuses_more_than_there_is(n: int, covered: Any) -> None:
    with pytest.raises(ValueError, match=rf"n = {n} .*{4 - len(covered)} of 4"):
        cover.kcenter(torch.zeros(4, 2), mask(4, covered), n)


@pytest.mark.parametrize("covered", [torch.zeros(3).bool(), torch.zeros(4).long(), torch.zeros(4, 1).bool()])
def test_refuses_a_wrong_mask(covered: Any) -> None:
    with pytest.raises(ValueError, match=r"covered must be bool \[4\]"):
        cover.kcenter(torch.zeros(4, 2), covered, 1)


def test_refuses_features_that_are_not_float() -> None:
    with pytest.raises(ValueError, match=r"float \[N, D\].*int64"):
        cover.kcenter(torch.zeros(4, 2, dtype=torch.long), mask(4, []), 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("covered", [[], [0], [7], range(10, 20)])
def test_names_the_first_row_that_is_not_finite(bad: float, covered: Any) -> None:
    x = features("gaussian", 20, 3)
    x[7, 1] = x[12, 0] = bad
    with pytest.raises(ValueError, match=r"features\[7\]"):
        cover.kcenter(x, mask(20, list(covered)), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_covers_as_well(kind: str) -> None:
    x, covered = features(kind, 2000, 64), mask(2000, range(100))
    picks = cover.kcenter(x.to("cuda"), covered.to("cuda"), 300).cpu()
    expected = covering_radii(x, covered, cover.kcenter(x, covered, 300))
    assert covering_radii(x, covered, picks) == pytest.approx(expected, rel=1e-4, abs=1e-5)
