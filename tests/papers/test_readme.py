"""The documents: what they are generated from, their links, their code, and that they name what there is."""

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.papers import beside, ends
from figures import documents as results

PROJECT = Path(__file__).parents[2]
MANUALS = [PROJECT / folder / "README.md" for folder in (".", "alnb", "benchmarks", "figures", "notebooks", "runs")]


def test_generated_documents_are_those_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--check"]) == 0, capsys.readouterr().out
    written = (PROJECT / "benchmarks" / "README.md").read_text()
    assert written == benchmarks.document(benchmarks.store.read_json(benchmarks.RESULTS))


def test_manuals_fit_their_pages() -> None:
    assert (PROJECT / "README.md").stat().st_size <= 8_192
    assert (PROJECT / "notebooks" / "README.md").stat().st_size <= 9_216
    assert (PROJECT / "runs" / "README.md").stat().st_size <= 2_560


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(manual: Path) -> None:
    links = re.findall(r'\]\(([^)#]+)\)|(?:href|src)="([^"#]+)"', manual.read_text())
    local = [link for pair in links for link in pair if link and "://" not in link]
    missing = [link for link in local if not (manual.parent / link).exists()]
    assert not missing, f"{manual} links to {missing}"


@pytest.mark.slow
def test_the_readmes_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(block.replace("cycles=8", "cycles=2"), namespace)
    assert len(blocks) == 2 and len(list(tmp_path.glob("runs/*/cycle_001/record.json"))) == 2


def test_every_variable_is_documented() -> None:
    files = [PROJECT / "Makefile", *(path for name in ("alnb", "tests", "notebooks") for path in (PROJECT / name).rglob("*"))]
    code = [path.read_text() for path in files if path.suffix in (".py", ".ipynb") or path.name == "Makefile"]
    used = {name for text in code for name in re.findall(r"\bALNB_[A-Z_]+\b", text)}
    manual = (PROJECT / "notebooks" / "README.md").read_text().split("## Variables")[1]
    assert used == set(re.findall(r"`(ALNB_[A-Z_]+)`", manual))


def test_a_cell_without_a_value_is_a_dash() -> None:
    rows = [{"name": "a", "low": 0.5, "high": None}]
    assert results.table({"what": "{name}", "range": "{low:.1f} to {high:.1f}", "low": "{low:.1%}"}, rows) == (
        "|what|range|low|\n|--|--:|--:|\n|a|–|50.0%|"
    )


def test_every_claim_has_a_heading_and_the_figures_behind_it() -> None:
    row = {"claim": "C1", "statement": "It is better.", "verdict": "holds", "evidence": "a +1.0 points; b -2.0 points", "source": "5.1"}
    assert list(results.claims({"table1": [], "claims cifar10": [{**row, "p": 0.0123}]})) == [
        "### Claims: cifar10",
        "#### C1: holds (p = 0.012)\n\n> It is better. (5.1)",
        "- a +1.0 points\n- b -2.0 points",
    ]


def test_headlines_state_the_range_of_the_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"claim": "P1", "statement": "It is better.", "verdict": "does not hold", "p": 0.01}
    measured = {"laptop": {"tables": {"claims figure3": [{**row, "evidence": "a +0.3 points (95 %); b -2.8 points (95 %)"}]}}}
    monkeypatch.setattr(results, "HEADLINES", (("yi2022/figure3", "claims figure3", "P1"),))
    line = results.headlines({"yi2022": measured}).splitlines()[-1]
    assert line == "|It is better.|Yi P1, figure3|-2.8 to +0.3|does not hold|[figure3](notebooks/yi2022/figure3.ipynb)|"
    row["evidence"] = "rho +0.20 (95 %); scale laptop; detects 0.3 with power 80%"
    line = results.headlines({"yi2022": {"laptop": {"tables": {"claims figure3": [row]}}}}).splitlines()[-1]
    assert "|rho +0.20|" in line  # what could be detected is no result


def test_stale_documents_are_named_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("results.json", "texts.json"):
        (tmp_path / "figures" / name).write_bytes((PROJECT / "figures" / name).read_bytes())
    (tmp_path / "README.md").write_text("before\n<!-- results -->\n<!-- /results -->\nafter\n")
    assert results.main(["--check"], tmp_path) == 1 and not (tmp_path / "figures" / "README.md").exists()
    assert results.main([], tmp_path) == results.main(["--check"], tmp_path) == 0
    assert "README.md is stale" in capsys.readouterr().out and (tmp_path / "README.md").read_text().endswith("<!-- /results -->\nafter\n")


def test_every_picture_has_a_caption() -> None:
    texts = json.loads((PROJECT / "figures" / "texts.json").read_text())
    names = {name for section in results.SECTIONS for name in texts[section]["pictures"]}
    pictures = {path.stem.removesuffix("-laptop") for path in (PROJECT / "figures").glob("*.png") if not path.stem.endswith("-smoke")}
    assert {name for name in pictures if "-advisor-" not in name} <= names


def test_runs_that_two_regimes_share_count_once() -> None:
    keys = {"dataset": "cifar10", "arm": "frozen", "strategy": "random", "n_labelled": 500, "pool": 1000, "cycle": 4}
    rows = [{**keys, "seed": seed, "regime": regime, "accuracy": seed / 10} for seed in (1, 3) for regime in (2.0, 10.0)]
    (end,) = ends(pandas.DataFrame(rows)).to_dict("records")
    assert end["seeds"] == 2 and end["accuracy"] == pytest.approx(0.2)


def test_our_numbers_stand_beside_those_of_the_same_figure() -> None:
    def curve(strategy: str, accuracies: list[float], run: str, **changes: Any) -> list[dict[str, Any]]:
        common = {"strategy": strategy, "preset": "clean", "dataset": "cifar10", "seed": 0, "run": run, **changes}
        return [{**common, "cycle": cycle, "accuracy": accuracy} for cycle, accuracy in enumerate(accuracies)]

    rows = curve("pt4al", [0.2, 0.4], "long") + curve("pt4al", [0.1], "cold") + curve("pt4al", [0.9, 0.9], "warm", preset="paper")
    table = beside(pandas.DataFrame(rows), {})
    measured = {row["item"]: row["measured"] for row in table if row["strategy"] == "pt4al" and row["metric"] == "accuracy"}
    assert measured["CIFAR-10, last iteration"] == 0.4 and measured["CIFAR-10, first iteration"] == 0.2 and measured["Table 1"] == 0.1
    assert all(row["measured"] is None for row in table if row["strategy"] == "learning_loss" or row["metric"] == "correlation")
