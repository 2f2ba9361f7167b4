"""The README's tables of Bengar et al. 2021, from records and results that are made up here."""

import re
from typing import Any

import pandas
import pytest
from test_claims import as_claimed, runs

from alnb import bengar2021, claims
from benchmarks import readme
from benchmarks.bengar2021 import ends, plain


def results(**table: Any) -> dict[str, Any]:
    empty = {"table1": [], "figure6": [], "ends": [], "claims": {}, "knn": {"cifar10": 0.25}}
    return {"bengar2021": {"rows": [{}, {"table": {**empty, **table}}]}}


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> pandas.DataFrame:
    frame = runs(as_claimed, scale="paper")
    monkeypatch.setattr(readme.bengar2021, "read", lambda folder, scale: frame)
    return frame


def row(text: str, begin: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {begin}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_nothing_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme.bengar2021, "read", lambda folder, scale: pandas.DataFrame())
    text = readme.bengar(results())
    assert row(text, "accuracy, half labelled: cifar10, self-supervised, entropy") == ["0.911", "not yet", "not yet", "–, –"]
    assert row(text, "labels per class from which choosing pays: tiny_imagenet") == ["more than 225", "not yet", "not yet", "–, –"]
    assert "25.0% on cifar10" in text


def test_scale_paper_comes_from_its_records(paper: pandas.DataFrame) -> None:
    laptop = runs(as_claimed, seeds=3)
    text = readme.bengar(results(table1=plain(bengar2021.table1(laptop)), figure6=plain(claims.figure6(laptop))))
    at_half = paper[(paper["regime"] == 10) & (paper["cycle"] == 4) & (paper["arm"] == "frozen") & (paper["strategy"] == "entropy")]
    shown = row(text, "accuracy, half labelled: cifar10, self-supervised, entropy")
    assert shown == ["0.911", f"{at_half['accuracy'].mean():.3f}", shown[2], "5, 3"] and shown[2] not in (shown[1], "not yet")
    assert row(text, "labels per class from which choosing pays: cifar10,")[1] == "50 (50 to 50)"
    assert row(text, "accuracy, half labelled: cifar100, self-supervised, entropy")[1:] == ["not yet", "not yet", "–, –"]
    table = readme.said(results(claims={"cifar10": plain(claims.claims(laptop, "cifar10"))}))
    assert row(table, "C6, cifar10")[1] == "holds" and len(table.splitlines()) == 2 + len(claims.claims(laptop, "cifar10"))


def test_a_threshold_that_was_not_reached_is_a_bound() -> None:
    found = {"labels_per_class": None, "low": 20.0, "high": None, "tried": 250.0}
    assert readme._threshold(found) == "more than 250 (20 to more than 250)"


def test_runs_that_two_regimes_share_count_once() -> None:
    frame = runs(as_claimed)
    twice = pandas.concat([frame[frame["regime"] == 2], frame[frame["regime"] == 2].assign(regime=10.0)])
    table = ends(twice)
    assert set(table["seeds"]) == {5} and len(table) == 9 and table.equals(ends(frame[frame["regime"] == 2]))
    text = readme.ends(results(ends=plain(table)))
    assert row(text, "cifar10, from scratch")[0] == "5,000 of 10,000" and row(text, "cifar10, from scratch")[4] == "–"


def test_every_place_of_the_readme_is_filled() -> None:
    assert set(re.findall(r"<!-- (\w+) -->", readme.README.read_text())) == set(readme.TABLES)
