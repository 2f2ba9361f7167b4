import math

import numpy
import pytest
import torch
from alnb.report.rank_correlation import bootstrap, correlate, draw, ranks, reliability, spearman, within_classes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alnb.store import streams as rng


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=40))
def test_spearman_and_ranks_are_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert ranks(one).tolist() == stats.rankdata(one.numpy()).tolist()
    if len(set(one.tolist())) > 1 and len(set(other.tolist())) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one.numpy(), other.numpy()).statistic, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_bootstrap_against_a_loop(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(60, generator=generator)
    other = one + torch.randn(60, generator=generator)
    if tied:
        one, other = one.round(), other.round()
    low, high = bootstrap(one, other, resamples=120)
    g, naive = rng.generator(0, "bootstrap"), []
    for count in (50, 50, 20):
        for drawn in torch.randint(60, (count, 60), generator=g):
            naive.append(stats.spearmanr(one[drawn].numpy(), other[drawn].numpy()).statistic)
    assert (low, high) == pytest.approx(tuple(numpy.quantile(naive, [0.025, 0.975])), abs=1e-9)
    assert low < spearman(one, other) < high
    assert bootstrap(one, other, resamples=120) == (low, high) != bootstrap(one, other, resamples=120, seed=1)
    monkeypatch.setattr("alnb.report.rank_correlation.BLOCK", 7)
    assert bootstrap(one, other, resamples=120) == pytest.approx((low, high), abs=1e-12)


def test_within_classes_takes_class_means_away() -> None:
    """Two classes whose means make all of the correlation."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(400) % 2
    one, other = (10 * targets + torch.randn(400, generator=generator) for _ in range(2))
    each, mean = within_classes(one, other, targets, 3)
    assert spearman(one, other) > 0.7 and abs(mean) < 0.15 and math.isnan(each[2])
    assert mean == pytest.approx((each[0] + each[1]) / 2)
    found = correlate(one[None], other, targets, 3, resamples=20)
    assert found.rho == spearman(one, other) and found.within == mean and found.low <= found.high


def test_reliability_of_noise_and_of_a_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(500, generator=generator), torch.randn(8, 500, generator=generator)
    half = spearman((signal + 0.3 * noise)[0::2].mean(0), (signal + 0.3 * noise)[1::2].mean(0))
    assert reliability(signal + 0.3 * noise) == pytest.approx(2 * half / (1 + half), abs=1e-6)
    assert reliability(signal + 0.3 * noise) > 0.9 and abs(reliability(noise)) < 0.2
    halves = spearman(torch.arange(5.0), torch.tensor([4.0, 2, 3, 1, 0]))
    assert reliability(torch.tensor([[0.0, 1, 2, 3, 4], [4, 2, 3, 1, 0]])) == halves == pytest.approx(-0.9)
    with pytest.raises(ValueError, match=r"odd draws is 1\.0 everywhere"):
        reliability(torch.stack([signal, torch.ones(500)]))
    with pytest.raises(ValueError, match=r"draws are \[M, N\] with M of at least 2, these are \[1, 500\]"):
        reliability(noise[:1])


def drawn_both(seed: int) -> bool:
    drawn = torch.randint(1000, (1, 1000), generator=rng.generator(seed, "bootstrap"))
    return bool((drawn == 0).any() and (drawn == 999).any())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"main is 2.0 everywhere: without an order there is no rank correlation"):
        spearman(torch.rand(4), torch.full((4,), 2.0), ("pretext", "main"))
    with pytest.raises(ValueError, match="pretext is not a number at 2: it has no rank"):
        spearman(torch.tensor([0.0, 1.0, torch.nan]), torch.rand(3), ("pretext", "main"))
    for options in ({"resamples": 0}, {"level": 95.0}):
        with pytest.raises(ValueError, match=r"resamples is \d+, level [\d.]+: choose at least 1, and a level in \(0, 1\)"):
            bootstrap(torch.rand(9), torch.rand(9), **options)
    rare = torch.eye(1000)[0]
    with pytest.raises(ValueError, match="none of 1 samples of 1000 pairs has two different values on both sides"):
        bootstrap(rare, rare.flip(0), resamples=1, seed=next(s for s in range(99) if not drawn_both(s)))
    with pytest.raises(ValueError, match=r"targets\[1\] is -1: classes are in \[0, 3\)"):
        within_classes(torch.rand(3), torch.rand(3), torch.tensor([0, -1, 2]), 3)
    with pytest.raises(ValueError, match=r"targets are \[2\], of 3 images"):
        within_classes(torch.rand(3), torch.rand(3), torch.tensor([0, 2]), 3)
    with pytest.raises(ValueError, match=r"first is \[3\], second \[4\]: both are \[N\]"):
        spearman(torch.rand(3), torch.rand(4))


def test_drawing() -> None:
    generator = torch.Generator().manual_seed(0)
    main, losses = torch.rand(1500, generator=generator), {n: torch.rand(1, 1500, generator=generator) for n in ("rotation", "jigsaw")}
    found = {name: correlate(values, main, torch.zeros(1500, dtype=torch.int64), 1, resamples=10) for name, values in losses.items()}
    figure = draw(found, "correlation")
    pairs = torch.stack([(ranks(main) - 0.5) / 1500, (ranks(losses["jigsaw"][0]) - 0.5) / 1500], dim=1)
    shown = figure.axes[1].collections[0].get_offsets().tolist()
    assert len(shown) == len(figure.axes[0].collections[0].get_offsets()) == 1000
    assert {tuple(point) for point in shown} <= {(round(x, 6), round(y, 6)) for x, y in pairs.tolist()}
    one = found["rotation"]
    assert f"ρ = {one.rho:.3f} ({one.low:.3f} to {one.high:.3f})" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="there is no pretext to draw"):
        draw({}, "correlation")


def test_draws_are_averaged() -> None:
    draws, main = torch.rand(5, 40, generator=torch.Generator().manual_seed(1)), torch.arange(40.0)
    one = correlate(draws, main, torch.zeros(40, dtype=torch.int64), 1, resamples=10)
    assert one.rho == pytest.approx(stats.spearmanr(draws.double().mean(dim=0), main).statistic)
    assert list(one.by_draws) == [1, 2, 4] and one.by_draws[1] == pytest.approx(stats.spearmanr(draws[0], main).statistic)
    assert one.reliability == reliability(draws)
    with pytest.raises(ValueError, match=r"losses are \[40\]: give \[M, N\]"):
        correlate(draws[0], main, torch.zeros(40, dtype=torch.int64), 1)


def test_drawing_of_one_is_not_cut_off() -> None:
    values = torch.arange(30.0)
    found = {"colorization": correlate(values[None], values, torch.zeros(30, dtype=torch.int64), 1, resamples=10)}
    figure = draw(found, "CIFAR-10, test images: the pretext loss against that of the main task")
    figure.draw_without_rendering()
    title, above = figure.axes[0].title.get_window_extent(), figure._suptitle.get_window_extent()
    assert above.x0 >= 0 and above.x1 <= figure.bbox.x1 and above.y1 <= figure.bbox.y1 and title.y1 <= above.y0
