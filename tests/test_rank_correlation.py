import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alnb import rng
from alnb.rank_correlation import bootstrap, correlate, draw, ranks, reliability, spearman, within_classes


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=40))
def test_spearman_and_ranks_are_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert ranks(one).tolist() == stats.rankdata(one.numpy()).tolist()
    if len(set(one.tolist())) > 1 and len(set(other.tolist())) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one.numpy(), other.numpy()).statistic, abs=1e-12)


def test_bootstrap_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(60, generator=generator)
    other = one + torch.randn(60, generator=generator)
    low, high = bootstrap(one, other, resamples=120)
    g, naive = rng.generator(0, "bootstrap"), []
    for count in (50, 50, 20):
        for drawn in torch.randint(60, (count, 60), generator=g):
            naive.append(stats.spearmanr(one[drawn].numpy(), other[drawn].numpy()).statistic)
    assert (low, high) == pytest.approx(tuple(numpy.quantile(naive, [0.025, 0.975])), abs=1e-9)
    assert low < spearman(one, other) < high


def test_within_classes_takes_class_means_away() -> None:
    """Two classes whose means make all of the correlation."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(400) % 2
    one, other = (10 * targets + torch.randn(400, generator=generator) for _ in range(2))
    each, mean = within_classes(one, other, targets, 3)
    assert spearman(one, other) > 0.7 and abs(mean) < 0.15 and math.isnan(each[2])
    assert mean == pytest.approx((each[0] + each[1]) / 2)
    found = correlate(one, other, targets, 3, resamples=20)
    assert found.rho == spearman(one, other) and found.within == mean and found.low <= found.high


def test_reliability_of_noise_and_of_a_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(500, generator=generator), torch.randn(8, 500, generator=generator)
    half = spearman((signal + 0.3 * noise)[0::2].mean(0), (signal + 0.3 * noise)[1::2].mean(0))
    assert reliability(signal + 0.3 * noise) == pytest.approx(2 * half / (1 + half), abs=1e-6)
    assert reliability(signal + 0.3 * noise) > 0.9 and abs(reliability(noise)) < 0.2
    with pytest.raises(ValueError, match=r"draws are \[M, N\] with M of at least 2, these are \[1, 500\]"):
        reliability(noise[:1])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"main is 2.0 everywhere: without an order there is no rank correlation"):
        spearman(torch.rand(4), torch.full((4,), 2.0), ("pretext", "main"))
    with pytest.raises(ValueError, match="pretext is not a number at 2: it has no rank"):
        spearman(torch.tensor([0.0, 1.0, torch.nan]), torch.rand(3), ("pretext", "main"))
    with pytest.raises(ValueError, match=r"first is \[3\], second \[4\]: both are \[N\]"):
        spearman(torch.rand(3), torch.rand(4))


def test_drawing() -> None:
    main, losses = torch.rand(1500), {"rotation": torch.rand(1500), "jigsaw": torch.rand(1500)}
    found = {name: correlate(values, main, torch.zeros(1500, dtype=torch.int64), 1, resamples=10) for name, values in losses.items()}
    figure = draw(losses, main, found, "correlation")
    assert [len(axis.collections[0].get_offsets()) for axis in figure.axes] == [1000, 1000]
    assert f"ρ = {found['rotation'].rho:.3f}" in figure.axes[0].get_title()
