"""Side conditions: each against its definition, and the contract with several strategies inside, nested in several ways."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import queries
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from torch.nn.functional import one_hot

import alnb
from alnb import Cycle, Experiment, Pool, Protocol, Query, Stream, cycles, store
from alnb.acquire import STRATEGIES, Strategy, cover
from alnb.acquire.scopes import Arrived, Distinct, Quota, RandomShare, RandomSubset, Scoped, narrowed
from alnb.data import Embedded, ImageSet, Resident
from alnb.learn.nets import linear
from alnb.loop.oracle import simulated
from alnb.report.stats import weighted_mean

INSIDE = ["random", "margin", "entropy", "kcenter", "kmeans"]
inside = pytest.mark.parametrize("name", INSIDE)


def arriving(n: int = 7, seed: int = 0, candidates: torch.Tensor | None = None) -> Query:
    return replace(query_of(n, seed, candidates), side={"arrives": torch.zeros(60, dtype=torch.long)})


CONDITIONS: dict[str, Callable[[Strategy], Strategy]] = {
    "arrived": partial(Scoped, Arrived()),
    "distinct": partial(Scoped, Distinct(0.9999999)),
    "quota": partial(Quota, most=50),
    "nested": lambda inner: Scoped(Arrived(), Scoped(Distinct(0.9999999), Quota(Scoped(RandomSubset(60), inner), most=50))),
}


@inside
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=list(CONDITIONS))
def test_contract(condition: Callable[[Strategy], Strategy], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries.check_all(condition(STRATEGIES[name]), monkeypatch, arriving)


@inside
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=list(CONDITIONS))
def test_a_condition_that_does_not_bind_changes_nothing(condition: Callable[[Strategy], Strategy], name: str) -> None:
    assert torch.equal(condition(STRATEGIES[name])(arriving(20)), STRATEGIES[name](arriving(20)))


@inside
def test_contract_of_a_share_at_random(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = RandomShare(STRATEGIES[name], 0.3)
    for n in (7, 50):
        queries.check_contract(strategy, n)
    queries.check_seed(strategy)
    queries.check_candidates(strategy)
    queries.check_hidden(strategy)
    queries.check_chunks(strategy, 7, monkeypatch)


def test_a_narrowed_query_computes_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    query, some = query_of(), torch.tensor([50, 1, 9])
    expected, features = replace(query, candidates=some).log_probs, query.features
    assert not {"features", "log_probs"} & set(vars(narrowed(query_of(), some)))
    assert query.log_probs.shape == (50, 3)
    asked = queries.batches_of(monkeypatch)
    narrow = narrowed(query, some, n=2)
    assert torch.equal(narrow.log_probs, expected) and narrow.features is features and narrow.n == 2 and not asked


# ---- a pool that grows -----------------------------------------------------------------------------------------------------------


def test_arrived_is_its_definition() -> None:
    arrives = torch.arange(60) // 20
    query = replace(query_of(), side={"arrives": arrives - 5}, cycle=0)
    for cycle in range(-5, -2):
        early = replace(query, pool=Pool.of(query.pool.images), cycle=cycle)
        assert Arrived()(early).tolist() == [i for i in query.candidates.tolist() if arrives[i] - 5 <= cycle]


def test_arrived_refuses() -> None:
    with pytest.raises(ValueError, match=r"side\['there'\].*\[60\]"):
        Arrived("there")(arriving())
    with pytest.raises(ValueError, match=r"image 55 was asked for in cycle 0, but arrives in cycle 2.*initial"):
        Arrived()(replace(arriving(), side={"arrives": torch.arange(60) // 55 * 2}))
    late = torch.ones(60, dtype=torch.long).index_fill(0, query_of().pool.asked, 0).index_fill(0, torch.tensor([2, 3]), 0)
    with pytest.raises(ValueError, match=r"cycle 0: 2 of 50 candidates are left, but 7"):
        Arrived()(replace(arriving(), side={"arrives": late}))


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("vaal", "pal", "core_gcn", "uncertain_gcn")])
def test_no_strategy_sees_an_image_that_has_not_arrived(name: str) -> None:
    """The answer is the same whatever the images are that are neither candidates nor asked for."""
    query = query_of()
    later = query.candidates[::2]
    query = replace(query, side={"arrives": torch.zeros(60, dtype=torch.long).index_fill(0, later, 1)})
    pixels = query.pool.images.batch(torch.arange(60))
    pixels[later] = 255 - pixels[later]
    other = replace(query, pool=replace(query.pool, images=Resident(pixels)))
    strategy = Scoped(Arrived(), STRATEGIES[name])
    assert torch.equal(strategy(query), strategy(other))


# ---- near-duplicates -------------------------------------------------------------------------------------------------------------


def featured(features: torch.Tensor, asked: list[int], n: int = 1, classes: int = 3) -> Query:
    """A query whose images are these features [N,D], and are so for its net."""
    images = Embedded(Resident(torch.zeros(len(features), 3, 1, 1, dtype=torch.uint8)), features)
    pool = Pool.of(images).acquire(torch.tensor(asked, dtype=torch.long), torch.zeros(len(asked), dtype=torch.long), 0)
    return Query(pool, linear(classes, features.shape[1]).eval(), pool.unlabelled, n, Stream(0))


def naive_distinct(features: torch.Tensor, asked: list[int], candidates: list[int], cosine: float) -> list[int]:
    unit = features.double() / features.double().norm(dim=1, keepdim=True).clamp(min=1e-30)
    kept: list[int] = []
    for i in candidates:
        if all(float(unit[i] @ unit[j]) <= cosine for j in asked + kept):
            kept.append(i)
    return kept


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cosine=st.sampled_from([0.3, 0.9, 0.999]), block=st.sampled_from([3, 16, 1024]), zero=st.booleans())
def test_distinct_is_its_definition(seed: int, cosine: float, block: int, zero: bool) -> None:
    draw = Stream(seed).generator()
    features = torch.randn(8, 3, generator=draw)[torch.randint(8, (50,), generator=draw)]
    features = (features + 0.05 * torch.randn(50, 3, generator=draw)) * torch.rand(50, 1, generator=draw)
    features[::9] = features[3]  # exact copies
    if zero:
        features[7] = 0  # no direction: no duplicate of anything
    asked = torch.randperm(50, generator=draw)[:6].sort().values.tolist()
    query = featured(features, asked)
    order = query.candidates[torch.randperm(44, generator=draw)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "BLOCK", block)
        left = naive_distinct(features, asked, order.tolist(), cosine)
        if left:
            assert Distinct(cosine)(replace(query, candidates=order)).tolist() == left
            assert Distinct(cosine)(replace(query, candidates=order, net=None)).tolist() == left


def test_distinct_decides_close_pairs_in_float64() -> None:
    """Cosines that float32 products cannot tell from the threshold."""
    draw = Stream(0).generator()
    base = torch.randn(1, 64, generator=draw)
    features = torch.cat([torch.randn(1, 64, generator=draw), base + 1e-6 * torch.randn(400, 64, generator=draw)])
    exact = torch.nn.functional.cosine_similarity(features[1:].double(), features[:1].double()).abs().tolist()
    features[1:] *= float(features[0] @ features[1]) / abs(float(features[0] @ features[1]))  # a cosine above 0
    middle = sorted(exact)[200]
    near = Distinct(middle).near(features, torch.arange(1, 401), torch.tensor([0]))[:, 0].tolist()
    assert near == [value > middle for value in exact] and sum(near) == 199
    single = torch.nn.functional.normalize(features)
    assert near != (single[1:] @ single[0] > middle).tolist()  # what float32 says


def test_distinct_refuses() -> None:
    for wrong in (0, 1, -0.5):
        with pytest.raises(ValueError, match=f"Distinct.cosine is {wrong}"):
            Distinct(wrong)
    with pytest.raises(ValueError, match=r"Distinct.cosine is 0.9: 0 of 9 candidates are left, but 1 "):
        Distinct(0.9)(featured(torch.ones(10, 2), [4]))
    query = featured(torch.ones(10, 2), [4])
    vars(query)["features"] = torch.ones(10, 2).index_fill(0, torch.tensor([3]), torch.nan)
    with pytest.raises(ValueError, match=r"features\[3\]"):
        Distinct(0.9)(query)


# ---- quotas ----------------------------------------------------------------------------------------------------------------------


def quota_query(n: int, counts: list[int], seed: int = 0) -> Query:
    """Candidates of which `counts` are predicted as each class, in random order with random confidence."""
    draw, classes = Stream(seed).generator(), len(counts)
    kinds = torch.cat([torch.full((count,), kind) for kind, count in enumerate(counts)])
    kinds = torch.cat([torch.zeros(2, dtype=torch.long), kinds[torch.randperm(len(kinds), generator=draw)]])
    noise = 0.3 * torch.rand(len(kinds), classes, generator=draw)
    query = featured((1 + torch.rand(len(kinds), 1, generator=draw)) * one_hot(kinds, classes) + noise, [0, 1], n, classes)
    assert query.net is not None
    query.net.head.weight.data.copy_(torch.eye(classes))  # type: ignore[union-attr, operator]
    return query


def naive_quota(query: Query, most: int | None) -> list[int]:
    """Down the whole ranking by margin, past the classes that are full."""
    ranking = STRATEGIES["margin"](replace(query, n=len(query.candidates))).tolist()
    predicted = dict(zip(query.candidates.tolist(), query.log_probs.argmax(1).tolist(), strict=True))
    classes = query.log_probs.shape[1]
    chosen: list[int] = []
    counts = [0] * classes
    for image in ranking:
        kind = predicted[image]
        low = query.n // classes
        above = sum(count > low for count in counts)
        free = counts[kind] < most if most is not None else counts[kind] < low or (counts[kind] == low and above < query.n % classes)
        if free and len(chosen) < query.n:
            chosen.append(image)
            counts[kind] += 1
    return chosen


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=5),
    n=st.integers(1, 20),
    most=st.none() | st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_quota_is_its_definition(counts: list[int], n: int, most: int | None, seed: int) -> None:
    low, spare = (n // len(counts), n % len(counts)) if most is None else (most, 0)
    possible = sum(min(count, low) for count in counts) + min(spare, sum(count > low for count in counts))
    query = quota_query(n, counts, seed)
    if possible < n:
        with pytest.raises(ValueError, match=rf"Quota.most is {most}: it allows {possible} images, but {n} "):
            Quota(STRATEGIES["margin"], most)(query)
        return
    expected = naive_quota(query, most)
    assert Quota(STRATEGIES["margin"], most)(query).tolist() == expected and len(expected) == n


def test_quota_keeps_a_greedy_strategy_greedy() -> None:
    """k-center, one pick at a time, each among the classes that are not full."""
    query = quota_query(12, [40, 8, 5])
    predicted = dict(zip(query.candidates.tolist(), query.log_probs.argmax(1).tolist(), strict=True))
    expected: list[int] = []
    for _ in range(12):
        kinds = [predicted[i] for i in expected]
        free = [i for i in query.candidates.tolist() if i not in expected and kinds.count(predicted[i]) < 4]
        far = {i: min(float((query.features[i] - query.features[j]).double().norm()) for j in [0, 1, *expected]) for i in free}
        expected.append(max(far, key=lambda i: far[i]))
    assert Quota(STRATEGIES["kcenter"], 4)(query).tolist() == expected
    assert STRATEGIES["kcenter"](query).tolist() != expected  # the quota binds


@inside
def test_evenly_is_even(name: str) -> None:
    query = quota_query(14, [30, 9, 6])
    chosen = Quota(STRATEGIES[name])(query)
    kinds = query.log_probs.argmax(1)[torch.searchsorted(query.candidates, chosen)]
    assert sorted(torch.bincount(kinds, minlength=3).tolist()) == [4, 5, 5]
    plain = query.log_probs.argmax(1)[torch.searchsorted(query.candidates, STRATEGIES[name](query))]
    assert sorted(torch.bincount(plain, minlength=3).tolist()) != [4, 5, 5]


def test_quota_refuses() -> None:
    with pytest.raises(ValueError, match=r"Quota.most is 0"):
        Quota(STRATEGIES["margin"], 0)
    with pytest.raises(ValueError, match="RandomShare"):
        Quota(RandomShare(STRATEGIES["margin"]))
    with pytest.raises(ValueError, match="no trained net"):
        Quota(STRATEGIES["random"])(replace(query_of(), net=None))


# ---- a share at random -----------------------------------------------------------------------------------------------------------


@inside
def test_the_first_part_is_the_strategys(name: str) -> None:
    query = query_of(20)
    chosen = RandomShare(STRATEGIES[name], 0.25)(query)
    assert chosen[:15].tolist() == STRATEGIES[name](replace(query, n=15)).tolist()
    assert not torch.isin(chosen[15:], chosen[:15]).any()


def test_the_share_is_drawn_evenly_from_the_rest() -> None:
    query, counts, seeds = query_of(20), torch.zeros(60), 600
    for seed in range(seeds):
        chosen = RandomShare(STRATEGIES["margin"], 0.25)(replace(query, stream=Stream(seed)))
        counts[chosen[15:]] += 1
    rest = query.candidates[~torch.isin(query.candidates, chosen[:15])]
    p = RandomShare(STRATEGIES["margin"], 0.25).probabilities(20, 50)
    assert p[:15].tolist() == [1.0] * 15 and p[15:].tolist() == [5 / 35] * 5
    assert counts.sum() == counts[rest].sum() == 5 * seeds
    assert float((counts[rest] / seeds - 5 / 35).abs().max()) < 5 * (5 / 35 * 30 / 35 / seeds) ** 0.5


def test_the_weighted_mean_is_unbiased_and_the_naive_mean_is_not() -> None:
    """Accuracy of a net on all candidates from 40 picks of 400, 20 of them at random; the true accuracy is known here."""
    draw = Stream(4).generator()
    query = quota_query(40, [200, 200])
    right = torch.rand(400, generator=draw) < query.log_probs.exp().amax(1)  # calibrated: uncertain candidates are wrong more often
    share = RandomShare(STRATEGIES["margin"], 0.5)
    truth, estimates, errors, naive = float(right.double().mean()), [], [], []
    for seed in range(800):
        chosen = share(replace(query, stream=Stream(seed))) - 2
        estimate, error = weighted_mean(right[chosen], share.probabilities(40, 400))
        estimates.append(estimate)
        errors.append(error)
        naive.append(float(right[chosen].double().mean()))
    spread = float(torch.tensor(estimates).std())
    assert abs(sum(estimates) / 800 - truth) < 3 * spread / 800**0.5
    assert abs(sum(naive) / 800 - truth) > 10 * float(torch.tensor(naive).std()) / 800**0.5
    assert float(torch.tensor(errors).square().mean()) ** 0.5 == pytest.approx(spread, rel=0.1)  # the stated error is the true one
    within = sum(abs(estimate - truth) <= 1.96 * error for estimate, error in zip(estimates, errors, strict=True))
    assert within / 800 > 0.85  # a normal interval of 20 draws covers a little less than it says


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=12), st.integers(2, 3), st.integers(0, 50))
def test_the_weighted_mean_is_its_definition(numbers: list[float], drawn: int, more: int) -> None:
    values, sure = torch.tensor(numbers, dtype=torch.float64), len(numbers) - drawn
    size = len(numbers) + more
    weight = (size - sure) / drawn
    probabilities = torch.tensor([1.0] * sure + [1 / weight] * drawn, dtype=torch.float64)
    mean, error = weighted_mean(values, probabilities)
    assert mean == pytest.approx((sum(numbers[:sure]) + weight * sum(numbers[sure:])) / size, abs=1e-9)
    spread = float(values[sure:].var())
    assert error == pytest.approx((size - sure) / size * (spread / drawn * (1 - 1 / weight)) ** 0.5, abs=1e-9)


def test_shares_and_means_refuse() -> None:
    for wrong in (0, 1, -0.1):
        with pytest.raises(ValueError, match=f"RandomShare.share is {wrong}"):
            RandomShare(STRATEGIES["random"], wrong)
    for share, n, drawn in ((0.1, 4, 0), (0.9, 4, 4)):
        with pytest.raises(ValueError, match=f"RandomShare.share is {share}: of {n} images it draws {drawn}"):
            RandomShare(STRATEGIES["random"], share)(query_of(n))
    for probabilities in (torch.tensor([1.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.5]), torch.tensor([torch.nan, 1.0])):
        with pytest.raises(ValueError, match="probabilities"):
            weighted_mean(torch.ones(2), probabilities)
    mean, error = weighted_mean(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.5]))
    assert mean == pytest.approx(1 / 3) and error != error


# ---- in the loop -----------------------------------------------------------------------------------------------------------------

ARRIVES = torch.arange(60) // 40


def experiment_of(train: ImageSet, test: ImageSet, learner: alnb.Learner, strategy: Strategy, **changes: object) -> Experiment:
    first = Scoped(Arrived(), STRATEGIES["random"])
    whole = Experiment(
        Pool.of(train.images), test, learner, strategy, simulated(train.targets), Protocol(9, 6, 3), first, {"arrives": ARRIVES}
    )
    return replace(whole, **changes)


ALL = RandomShare(Scoped(Arrived(), Scoped(Distinct(0.9999), Quota(STRATEGIES["kcenter"], most=4))), 0.34)
EVERY = {
    "quota": Scoped(Arrived(), Quota(STRATEGIES["margin"], 6)),
    "distinct": Scoped(Arrived(), Scoped(Distinct(0.99999), STRATEGIES["margin"])),
}


@pytest.mark.parametrize("strategy", [*EVERY.values(), Scoped(Arrived(), ALL)], ids=[*EVERY, "all"])
def test_a_resumed_run_is_equal(strategy: Strategy, train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    experiment = experiment_of(train, test, learner, strategy)
    whole = list(cycles(tmp_path / "whole", experiment))
    generator = cycles(tmp_path / "killed", experiment)
    next(generator)
    next(generator)
    generator.close()
    resumed = list(cycles(tmp_path / "killed", experiment))
    assert [c.reproducible for c in whole] == [c.reproducible for c in resumed]
    for cycle in whole:
        assert all(ARRIVES[i] <= cycle.cycle for i in cycle.queried)
    assert max(whole[-1].queried + whole[-2].queried) >= 40  # what arrived in cycle 1 is asked for


def test_manifests_tell_conditions_apart(train: ImageSet, test: ImageSet, learner: alnb.Learner) -> None:
    margin = STRATEGIES["margin"]
    conditions = [margin, Quota(margin), Quota(margin, 3), RandomShare(margin), RandomShare(margin, 0.2)]
    conditions += [Scoped(scope, margin) for scope in (Arrived(), Arrived("there"), Distinct(), Distinct(0.9), RandomSubset())]
    manifests = [experiment_of(train, test, learner, condition).manifest for condition in conditions]
    assert len({store.fingerprint(manifest) for manifest in manifests}) == len(conditions)
    assert manifests[2]["strategy"] == {"kind": "Quota", "strategy": "margin", "most": 3}
    assert "module" not in str(manifests[3]["strategy"]) and manifests[3]["side"]["arrives"]["shape"] == [60]


def test_the_estimate_from_a_runs_files(train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    """As the docstring of `RandomShare` says; a naive sum over all candidates beside it."""
    strategy = RandomShare(STRATEGIES["margin"], 0.5)
    experiment = experiment_of(train, test, learner, strategy, initial=STRATEGIES["random"])
    run = experiment.run(tmp_path)
    cycle: Cycle = list(cycles(run, experiment))[1]
    query = store.read_json(run.folder(1) / "query.json")
    right = torch.tensor(query["predicted"]) == torch.tensor(cycle.labels)
    accuracy, error = weighted_mean(right, strategy.probabilities(len(right), candidates=60 - 9))
    assert accuracy == pytest.approx((int(right[:3].sum()) + 48 / 3 * int(right[3:].sum())) / 51) and error >= 0
