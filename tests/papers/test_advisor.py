import dataclasses
import math
import re

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.acquire import scopes
from alnb.papers import advisor
from alnb.papers.advisor import ADVISED, Threshold, _interpolate, advise
from alnb.papers.bengar2021 import claims, thresholds
from alnb.papers.published import published
from alnb.widgets.labeller import rounds

CLASSES = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}


def runs(
    dataset: str,
    at: float,
    *,
    best: str = "entropy",
    below: str = "random",
    seeds: int = 5,
    scale: str = "laptop",
    steps: tuple[float, ...] = (5, 10, 50),
) -> pandas.DataFrame:
    """Runs of five steps of so many labels per class: `below` is the most accurate before `at` labels per class, `best` from there on."""
    rows = []
    classes = CLASSES[dataset]
    for seed in range(seeds):
        luck = numpy.random.default_rng(seed)
        for step in steps:
            for arm in ("scratch", "frozen"):
                for strategy in ("random", "entropy", "kcenter", "vaal", *(["svm_margin"] if arm == "frozen" else [])):
                    for cycle in range(5):
                        labels = step * (cycle + 1)
                        leader = best if labels >= at else below
                        gain = (strategy == leader) * 0.04 + (strategy == "random") * 0.01 if cycle else 0.05
                        accuracy = 0.3 + gain + 0.2 * (arm == "frozen") + luck.normal(0, 0.001)
                        percent = 100 * step / claims.PER_CLASS[dataset]
                        rows.append((dataset, classes, 10_000, arm, strategy, percent, seed, cycle, labels * classes, accuracy, scale))
    columns = ["dataset", "classes", "pool", "arm", "strategy", "regime", "seed", "cycle", "n_labelled", "accuracy", "scale"]
    return pandas.DataFrame(rows, columns=columns)


# --- from the papers ---


@pytest.mark.parametrize(
    ("classes", "per_class", "self_supervised", "strategy"),
    [
        (10, 5, True, "random"),
        (10, 49, True, "random"),
        (10, 50, True, "random"),  # the paper says entropy, and independent numbers do not
        (10, 900, True, "entropy"),
        (2, 900, True, "entropy"),
        (100, 49, True, "random"),
        (100, 250, True, "random"),  # beyond what the paper knows
        (100, 100, True, "random"),
        (200, 200, True, "random"),
        (10, 499, False, "random"),
        (10, 900, False, "kcenter"),
        (200, 40, False, "random"),
    ],
)
def test_the_papers_advise(classes: int, per_class: int, self_supervised: bool, strategy: str) -> None:
    advice = advise(classes, 10**6, classes * per_class, self_supervised)
    assert advice.strategy == strategy and advice.source == "papers"
    assert "The papers count here because no records were given" in advice.why
    assert f"The budget makes {per_class} labels per class" in advice.why or not self_supervised
    assert any(place.startswith("Bengar et al. 2021, section 5") for place in advice.evidence)
    assert any(place.startswith("Lüth et al. 2023") for place in advice.evidence)


def test_the_numbers_are_those_of_the_table() -> None:
    why = advise(10, 50_000, 300, True).why
    means = published("luth2023", dataset="cifar10", arm="finetuned", n_labelled=500).set_index("strategy")["value"]
    assert all(f"{name} {means[name]:.1%}" in why for name in ("random", "entropy", "kcenter"))
    assert "the threshold of 50 for 10 classes" in why
    assert "rests on 3 data sets: p = 0.09" in why
    assert "the threshold of more than 225 for 200 classes" in advise(200, 90_000, 900, True).why
    assert "the threshold of more than 50 for 40 classes" in advise(40, 90_000, 900, True).why


def test_what_speaks_against_the_paper_is_said() -> None:
    assert "The paper names entropy, which was no better than random there" in advise(10, 50_000, 1_000, True).why
    assert "no better" not in advise(10, 50_000, 9_000, True).why
    beyond = advise(30, 10**6, 3_000, True).why
    assert "up to which active learning does not beat random" in beyond and "How far above that choosing pays is not known" in beyond


def test_without_self_supervision_the_first_advice_is_to_pretrain() -> None:
    advice = advise(10, 50_000, 300, False)
    means = published("luth2023", dataset="cifar10", strategy="random", n_labelled=500).set_index("arm")["value"]
    start = f"First pre-train without labels: in independent numbers it lifts random sampling from {means['scratch']:.1%}"
    assert advice.why.startswith(f"{start} to {means['finetuned']:.1%}. If you cannot, this holds. The budget makes 30 labels")
    assert "p = 0.09" not in advice.why  # the paper's correlation is of the other arm


# --- from records ---


def test_records_count_before_the_papers() -> None:
    frame = runs("cifar10", at=100)
    below, above = advise(10, 50_000, 600, True, frame), advise(10, 50_000, 1_000, True, frame)
    assert (below.strategy, below.source) == ("random", "records")
    assert (above.strategy, above.source) == ("entropy", "records")
    assert "below the threshold of 100 for 10 classes" in below.why and "at or above the threshold of 100" in above.why
    assert "beats random in our records" in below.why and "entropy +3.0 points (95 % interval" in above.why
    assert above.evidence == (
        "cifar10, 10 classes, frozen arm, scale laptop, 5 replications: random beaten from 100 labels on per class "
        "(threshold 100, 95 % bounds 100 to 100)",
    )


def test_kcenter_below_where_records_show_so() -> None:
    frame = runs("cifar10", at=40, below="kcenter", steps=(5, 50))
    frame.loc[(frame["n_labelled"] == 250) & (frame["strategy"] != "random"), "accuracy"] -= 0.1  # there random is best
    assert thresholds.threshold(frame) == 100
    advice = advise(10, 50_000, 200, True, frame)
    assert advice.strategy == "kcenter" and "On cifar10, up to this budget, over random: entropy -" in advice.why
    assert advise(10, 50_000, 99, True, frame).strategy == "random"  # no point is as small: nothing shows it
    kept = frame.copy()
    kept.loc[(kept["strategy"] == "kcenter") & (kept["seed"] == 1) & (kept["n_labelled"] < 250), "accuracy"] -= 0.2
    assert advise(10, 50_000, 200, True, kept).strategy == "random"  # seeds disagree


def test_the_strategy_is_one_that_can_be_chosen() -> None:
    assert advise(10, 50_000, 1_000, True, runs("cifar10", at=100, best="svm_margin")).strategy == "svm_margin"
    vaal = advise(10, 50_000, 1_000, True, runs("cifar10", at=100, best="vaal"))
    assert vaal.source == "records" and vaal.strategy == "random"  # the others are no better than random


def test_the_nearest_data_set_and_lines_between() -> None:
    frame = pandas.concat([runs("cifar10", at=50), runs("cifar100", at=150, best="kcenter")])
    for classes, threshold, strategy in (
        (5, 50, "entropy"),
        (55, 100, "entropy"),
        (60, 105.6, "kcenter"),
        (100, 150, "kcenter"),
        (200, 150, "kcenter"),
    ):
        at = advise(classes, 10**6, math.ceil(classes * threshold * 1.01), True, frame)
        under = advise(classes, 10**6, int(classes * threshold * 0.99), True, frame)
        assert f"at or above the threshold of {threshold} for {classes} classes" in at.why and at.strategy == strategy
        assert f"below the threshold of {threshold} for {classes} classes" in under.why and under.strategy == "random"
        assert len(at.evidence) == (2 if 10 < classes < 100 else 1)
    for classes in (4, 201):  # thresholds grow with the number of classes: so far from the records only the papers speak
        beyond = advise(classes, 10**6, 10**5, True, frame)
        assert beyond.source == "papers" and "because the records are of 10 and 100 classes only" in beyond.why


def test_what_lies_outside_the_paper_is_said() -> None:
    outside = advise(1000, 10**6, 10**4, True).why
    assert "The paper has 10 to 200 classes: the nearest stands in" in outside
    assert "stands in" not in advise(150, 10**6, 10**4, True).why


def test_the_question_is_drawn_among_the_thresholds() -> None:
    for classes, budget in ((10, 500), (100_000, 3)):
        axis = advisor.draw(classes, budget, True, runs("cifar10", at=50)).axes[0]
        star = next(line for line in axis.lines if line.get_marker() == "*")
        assert tuple(star.get_xydata()[0]) == (classes, budget / classes)
        assert {text.get_text() for text in axis.texts} >= {"cifar10", "cifar100", "tiny_imagenet"}
        ticks = [label.get_text() for label in axis.get_yticklabels() if label.get_text()]
        assert len(ticks) == len(set(ticks))  # readable, however small the numbers


def test_what_the_records_do_not_decide_is_left_to_random() -> None:
    frame = runs("cifar10", at=20)
    luck = frame["seed"].map({0: 0.2, 1: -0.2, 2: 0.03, 3: 0.1, 4: -0.1}) * ((frame["strategy"] == "entropy") & (frame["cycle"] > 0))
    advice = advise(10, 50_000, 1_000, True, frame.assign(accuracy=frame["accuracy"] + luck))
    assert advice.source == "records" and advice.strategy == "random" and "entropy +" in advice.why  # a better mean, by chance perhaps


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(2, 300), st.floats(1, 500)), min_size=1, max_size=5, unique_by=lambda p: p[0]), st.integers(2, 400))
def test_interpolation_is_numpys(points: list[tuple[int, float]], classes: int) -> None:
    anchors = [Threshold(f"d{c}", c, labels, False, (str(c),)) for c, labels in points]
    x, y = zip(*sorted(points), strict=True)
    assert _interpolate(anchors, classes).labels == pytest.approx(numpy.interp(classes, x, y))
    bounds = [dataclasses.replace(anchor, bound=True) for anchor in anchors]
    assert _interpolate(bounds, classes).bound and not _interpolate(anchors, classes).bound


def test_paper_scale_counts_before_laptop_and_smoke_never() -> None:
    laptop, paper, smoke = (runs("cifar10", at=at, scale=scale) for at, scale in ((20, "laptop"), (150, "paper"), (10, "smoke")))
    advice = advise(10, 50_000, 1_000, True, pandas.concat([laptop, paper, smoke]))
    assert advice.strategy == "random" and "scale paper" in advice.evidence[0] and "threshold of 150" in advice.why
    assert "scale laptop" in advise(10, 50_000, 1_000, True, pandas.concat([laptop, smoke])).evidence[0]
    advice = advise(10, 50_000, 1_000, True, smoke)
    assert (
        advice.source == "papers" and "because the records have no 5 replications" in advice.why and "at a scale above smoke" in advice.why
    )


def test_records_that_cannot_answer() -> None:
    frame = runs("cifar10", at=100)
    why = advise(10, 50_000, 300, True, frame[frame["strategy"] == "random"]).why
    assert "because the records have no 5 replications of random and another strategy in the frozen arm" in why
    assert "because the records have no 5 replications" in advise(10, 50_000, 300, True, frame[frame["seed"] < 4]).why
    never = runs("cifar10", at=1000)
    inside, outside = (advise(10, 50_000, n, True, never) for n in (2_000, 2_500))
    assert inside.strategy == "random" and "below the threshold of more than 250" in inside.why
    assert "random not clearly beaten up to 250 labels per class (threshold inf, 95 % bounds inf to inf)" in inside.evidence[0]
    assert outside.source == "papers" and "because the records end at 250 labels per class" in outside.why


@pytest.mark.slow
def test_without_an_effect_random_is_recommended() -> None:
    """Of 200 answers from equal strategies at most 5 % recommend another, and at most 5 % of upper bounds are finite."""
    rng, others, finite = numpy.random.default_rng(0), 0, 0
    names = ("random", "entropy", "kcenter")
    keys = [
        ("cifar10", 10, 50_000, "frozen", name, 0.2, seed, k, 100 * (k + 1), "paper")
        for seed in range(5)
        for name in names
        for k in range(3)
    ]
    frame = pandas.DataFrame(
        keys, columns=["dataset", "classes", "pool", "arm", "strategy", "regime", "seed", "cycle", "n_labelled", "scale"]
    )
    luck = frame["seed"].map(lambda seed: 0.02 * seed)
    for k in range(200):
        advice = advise(10, 50_000, (150, 250, 299)[k % 3], True, frame.assign(accuracy=0.5 + luck + rng.normal(0, 0.01, len(frame))))
        assert advice.source == "records"
        finite += "random beaten from" in advice.evidence[0]
        others += advice.strategy != "random"
    assert finite <= 10 and others <= 10


# --- from what was measured of all strategies ---


def table(up_to: str, classes: str = "10 100") -> tuple[dict[str, str], ...]:
    rows = (("first", "5", "kmeans"), ("later", "5", "kcenter"), ("later", up_to, "margin"))
    names = ("round", "up_to", "strategy", "reason", "classes")
    return tuple(dict(zip(names, (*row, f"reason {k}", classes), strict=True)) for k, row in enumerate(rows))


def test_what_was_measured_of_all_strategies_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "defaults", lambda: table("100"))
    monkeypatch.setattr(advisor, "defaults", lambda: table("100"))
    frame = runs("cifar10", at=100)
    for classes, labels, strategy, why in ((10, 3, "kcenter", "kcenter (reason 1)"), (150, 6, "margin", "margin (reason 2)")):
        advice = advise(classes, 10**6, classes * labels, True, frame)
        assert (advice.strategy, advice.source) == (strategy, "records") and f"makes {labels} labels per class" in advice.why
        assert f"first labels by kmeans (reason 0), and later ones by {why}" in advice.why and "10, 100 classes" in advice.evidence[0]
    for classes, labels in ((10, 101), (4, 3), (201, 3)):  # more labels, or other numbers of classes than were tried
        assert "reason" not in advise(classes, 10**6, classes * labels, True, frame).why
    assert "reason" not in advise(10, 10**6, 30, False, frame).why  # without features


def test_nothing_measured_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisor, "defaults", lambda: table("100", classes=""))
    assert advise(10, 50_000, 30, True).source == "papers"


def test_uneven_classes_and_duplicates_have_a_remedy() -> None:
    plain, both = (advise(10, 50_000, 300, True, sides=sides) for sides in ((), ("imbalanced", "duplicates")))
    assert both.strategy == plain.strategy and both.why == f"{plain.why} {advisor.SIDE['imbalanced']} {advisor.SIDE['duplicates']}"
    with pytest.raises(ValueError, match="side is 'blurred'"):
        advise(10, 50_000, 300, True, sides=["blurred"])


def test_the_remedies_exist() -> None:
    named = re.findall(r"acquire\.scopes\.(\w+)", " ".join(advisor.SIDE.values()))
    assert len(named) == 2 and all(hasattr(scopes, name) for name in named)


# --- input and form ---


@pytest.mark.parametrize(
    ("classes", "pool", "budget", "message"),
    [
        (1, 100, 10, "classes is 1: .*at least 2"),
        (10, 100, 0, "budget is 0: .*at least 1"),
        (10, 100, 101, "budget is 101, but the pool has only 100 images: pass 100 or less"),
        (10.0, 100, 10, "classes is 10.0: it must be a whole number"),
        (10, "100", 10, "pool is '100': it must be a whole number"),
        (10, 100, True, "budget is True: it must be a whole number"),
        (10, -5, -7, "pool is -5"),
    ],
)
def test_bad_input_is_named(classes: int, pool: int, budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advise(classes, pool, budget, True)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 1000), st.integers(1, 10**6), st.floats(0, 1), st.booleans())
def test_every_input_gets_one_of_the_strategies_and_a_paragraph(classes: int, pool: int, share: float, self_supervised: bool) -> None:
    advice = advise(classes, pool, max(1, int(share * pool)), self_supervised)
    text = str(advice)
    assert advice.strategy in ADVISED and (self_supervised or advice.strategy != "svm_margin")
    assert text.startswith(f"Label by {advice.strategy}. ") and text.endswith(".") and "\n" not in text and "nan" not in text
    assert "Evidence (papers): " in text and all(place in text for place in advice.evidence)


def test_a_budget_for_everything_leaves_no_choice() -> None:
    advice = advise(10, 5_000, 5_000, True)
    assert advice.strategy == "random" and advice.why.startswith("The budget labels the whole pool")
