"""The README's tables of Bengar et al. 2021, from records and results that are made up here."""

import re
from typing import Any

import pandas
import pytest
from test_claims import as_claimed, runs
from test_yi2022_claims import made

from alnb.papers.bengar2021 import claims
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.papers.published import published
from alnb.papers.yi2022 import figures as yi2022_report
from alnb.papers.yi2022.lookback import Compared
from alnb.report.stats import Correlation
from benchmarks import readme
from benchmarks.bengar2021 import ends, plain
from benchmarks.yi2022 import CLAIMS, beside, claimed


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


def test_pt4als_numbers_stand_beside_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = made({"random": [0.2, 0.3], "pt4al": [0.25, 0.4]}, seeds=3)
    cold = made({"random": [0.1], "pt4al": [0.15]}, seeds=4).assign(run=lambda rows: "cold " + rows["run"])
    warm = made({"random": [0.9, 0.9]}, preset="clean, init=warm").assign(run=lambda rows: "warm " + rows["run"])
    short = made({"pt4al": [0.7]}).assign(run="short", cycle=1)  # a curve of fewer iterations, as `protocols` has them
    laptop = beside(pandas.concat([curves, cold, warm]), {"rotation": Compared(correlation(0.5), "losses", "cifar10", 9, 9, 0.4)})
    assert beside(pandas.concat([curves, cold, short.assign(cycle=0)]), {})[0] == laptop[0]
    frame = curves.assign(accuracy=curves["accuracy"] + 0.1)
    uneven = made({"random": [0.9, 0.9], "pt4al": [0.1, 0.1]}, dataset="cifar10_imbalanced")
    uneven["run"] = "uneven " + uneven["run"]
    worse = made({"random": [0.9], "pt4al": [0.1]}, seeds=6).assign(run=lambda rows: "cold " + rows["run"])  # of Table 1, not Figure 3
    everything = pandas.concat([frame, uneven, worse]).assign(scale="paper")
    monkeypatch.setattr(readme, "_paper", lambda: everything)
    monkeypatch.setattr(readme, "compared", lambda runs, scale: {})
    rho = {"rotation": Compared(correlation(0.5), "losses", "cifar10", 9, 9, 0.4)}
    monkeypatch.setattr("benchmarks.yi2022.compared", lambda runs, scale: rho)
    worth = [{"preset": "clean, init=warm", "strategy": name, "difference": 0.01, "low": 0.0, "high": 0.02, "seeds": 3,
              "gain": None, "gain_low": None, "gain_high": None} for name in ("random", "pt4al")]  # fmt: skip
    told = {f"claims {name}": plain(claimed(pandas.concat([curves, uneven, cold]), name)) for name in CLAIMS}
    printed = published("yi2022", metric="correlation", dataset="cifar10")
    told["claims figure2"] = plain(yi2022_report.correlations({"rotation": correlation(0.5)}, printed, "paper"))
    table = {"beside": laptop, "protocols": worth, **told}
    found = {"yi2022": {"rows": [{}, {"table": table}]}}
    text = readme.yi(found)
    mean = curves[(curves["strategy"] == "pt4al") & (curves["cycle"] == 1)]["accuracy"].mean()
    assert row(text, "accuracy: CIFAR-10, last iteration, pt4al") == ["95.13%", f"{mean + 0.1:.2%}", f"{mean:.2%}", "3, 3"]
    first = [f"{rows[rows['strategy'] == 'pt4al']['accuracy'].mean():.2%}" for rows in (worse, cold)]
    assert row(text, "accuracy: Table 1, pt4al")[1:] == [*first, "6, 4"]
    assert row(text, "correlation: Figure 2, rotation") == ["0.790", "not yet", "0.500", "–, 1"]
    assert row(readme.yi_protocols(found), "clean, init=warm")[0] == "+1.0 (+0.0 to +2.0)"
    claims = readme.yi_claims(found)
    assert row(claims, "P2, `figure3`")[1:3] == ["holds", "**holds**"]  # and not what Table 1's runs say
    assert row(claims, "P13, `table1`")[1:3] == ["does not hold", "**holds**"] and row(claims, "P14, `table1`")[1] != "not yet"
    assert row(claims, "P5, `figure5b`")[1:3] == ["does not hold", "**does not hold**"]
    assert row(claims, "H1, `figure2`")[1:3] == ["holds", "**holds**"] and "caltech101" not in claims
    assert "not yet" in readme.yi({}) and len(readme.yi_costs({}).splitlines()) == len(readme.yi_claims({}).splitlines()) == 2


def correlation(rho: float) -> Correlation:
    return Correlation(rho, rho - 0.1, rho + 0.1, rho, (), {1: rho}, float("nan"), ())
