"""Runs to tables, against what the records say when they are read one by one."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

import alnb
from alnb import Experiment, acquire, store
from alnb.__main__ import main
from alnb.data import ImageSet
from alnb.loop import oracle
from alnb.loop.experiment import Cycle
from alnb.report import records

CPU = torch.device("cpu")


@pytest.fixture
def make(train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> Callable[..., store.Run]:
    def made(name: str, strategy: str = "margin", seed: int = 0, tags: Any = None, cycles: int = 2) -> store.Run:
        run, truth = store.Run(tmp_path / name), oracle.simulated(train.targets)
        protocol, pool = alnb.Protocol(6, 3, cycles, seed=seed), alnb.Pool.of(train.images)
        list(alnb.cycles(run, Experiment(pool, test, learner, acquire.STRATEGIES[strategy], truth, protocol, tags=tags or {})))
        return run

    return made


def test_one_row_a_cycle_with_all_that_is_known(make: Callable[..., store.Run], tmp_path: Path) -> None:
    tags = {"arm": "a", "strategy": "mine", "seed": 7, "regime": 0.5}
    runs = [make("bars/one", tags={**tags, "replication": 4}), make("bars/two", "entropy", 1, cycles=3)]
    (tmp_path / "bars/begun").mkdir()
    store.Run(tmp_path / "bars/begun").begin({"dataset": "bars"}, CPU)  # not a cycle yet
    frame = alnb.load(tmp_path)
    assert len(frame) == 5 and list(frame["run"].unique()) == [str(run.path) for run in runs]
    assert list(frame["strategy"]) == ["mine"] * 2 + ["entropy"] * 3 and list(frame["arm"]) == ["a"] * 2 + ["scratch"] * 3
    assert list(frame["seed"]) == [7, 7, 1, 1, 1] and set(frame["dataset"]) == {"bars"} and set(frame["experiment"]) == {"bars"}
    assert list(frame["replication"]) == [4, 4, 1, 1, 1]  # without a tag, a seed is a replication
    assert frame["regime"].isna().sum() == 3 and set(frame["experiment.strategy"]) == {"margin", "entropy"}
    naive = [(run, Cycle.read(record)) for run in runs for record in run.records()]
    for row, (run, cycle) in zip(frame.to_dict("records"), naive, strict=True):
        assert (row["run"], row["cycle"], row["n_labelled"]) == (str(run.path), cycle.cycle, cycle.n_labelled)
        assert row["accuracy"] == cycle.metrics["accuracy"] and row["seconds_fit"] == cycle.seconds["fit"]
        assert row["seconds"] == pytest.approx(sum(cycle.seconds.values())) and row["peak_memory_mb"] == cycle.peak_memory_mb
        manifest = run.manifest or {}
        leaves = [manifest["experiment"]["learner"]["recipe"]["lr"], manifest["environment"]["torch"]]
        assert [row["learner.recipe.lr"], row["environment.torch"]] == leaves
        assert json.loads(row["learner.recipe.milestones"]) == manifest["experiment"]["learner"]["recipe"]["milestones"]
    assert list(frame["protocol"].unique()) == ["6 + 1 x 3 labels, fresh", "6 + 2 x 3 labels, fresh"]
    assert list(frame["commit"].unique()) == [store.commit() or "unknown"]
    assert all(
        frame[name].dtype == "category" for name in ("run", "strategy", "arm", "protocol", "experiment.strategy", "environment.torch")
    )
    assert frame["accuracy"].dtype == "float64" and frame.columns.is_unique


def test_a_frame_is_the_same_as_what_is_loaded(make: Callable[..., store.Run], tmp_path: Path) -> None:
    make("one", tags={"arm": "a", "seed": 3}), make("two")
    found = records.find(tmp_path, arm="a")
    assert [tags for _, tags in found] == [{"arm": "a", "seed": 3}] and len(records.find(tmp_path)) == 1
    frame, loaded = records.frame(found), alnb.load(tmp_path / "one")
    assert list(frame.columns[:4]) == ["arm", "seed", "cycle", "n_labelled"] and list(frame.columns[-3:]) == ["protocol", "commit", "run"]
    for name in frame.columns:
        assert list(frame[name]) == list(loaded[name]), name
    with pytest.raises(ValueError, match="no finished cycles"):
        records.frame(records.find(tmp_path, arm="b"))


def test_protocols_as_texts() -> None:
    def text(**rules: Any) -> str:
        return records.protocol({"experiment": store.describe({"protocol": alnb.Protocol(**rules)})})

    assert text(initial=10, budget=10, cycles=5) == "10 + 4 x 10 labels, fresh"
    assert text(initial=20, budget=5, cycles=1, init="warm") == "20 labels, warm"
    assert text(initial=20, budget=5, cycles=2, checkpoint="best_test", seed=4) == "20 + 1 x 5 labels, fresh, best on test"
    assert records.protocol({}) == "protocol unknown"


def test_strategies_have_short_names() -> None:
    vaal = replace(alnb.acquire.vaal.CLEAN, updates=1)
    for strategy, name in ((acquire.random, "random"), (vaal, "VAAL"), (partial(acquire.margin), "margin")):
        assert records._short(store.describe(strategy)) == name


def test_nothing_there_and_what_is_damaged(make: Callable[..., store.Run], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished cycles"):
        records.frame([(store.Run(tmp_path), {})])
    with pytest.raises(ValueError, match=f"no folder {tmp_path / 'none'} .searched from {Path.cwd()}"):
        alnb.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"no finished runs below {tmp_path / 'empty'}: "):
        alnb.load(tmp_path / "empty")
    run = make("one")
    path = run.folder(1) / "record.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"n_labelled": 9', b'"n_labelled": 8'))
    with pytest.raises(store.Corrupted, match=r"cycle_001/record\.json is truncated or was altered"):
        alnb.load(tmp_path)
    path.write_bytes(whole)
    store.write_json(run.path / "manifest.json", {**(run.manifest or {}), "format": 99})
    with pytest.raises(store.NewerFormat, match=f"{run.path} has record format 99"):
        alnb.load(tmp_path)


def test_tags_with_names_of_measurements_are_refused(make: Callable[..., store.Run], tmp_path: Path) -> None:
    make("one", tags={"accuracy": 1.0})
    with pytest.raises(ValueError, match="names of measurements: accuracy"):
        alnb.load(tmp_path)


def test_class_counts_are_those_of_the_records(make: Callable[..., store.Run], tmp_path: Path) -> None:
    run = make("one", tags={"arm": "a"})
    long = records.class_counts(tmp_path)
    naive = [(r["cycle"], c, n) for r in run.records() for c, n in enumerate(r["class_counts"])]
    assert list(long[["cycle", "class", "count"]].itertuples(index=False, name=None)) == naive
    assert set(long["arm"]) == {"a"} and set(long["strategy"]) == {"margin"} and long["count"].sum() == 9
    assert len(records.class_counts(records.find(tmp_path))) == len(long)
    with pytest.raises(ValueError, match=r"below .*empty"):
        records.class_counts(tmp_path / "empty")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_export_and_back(suffix: str, make: Callable[..., store.Run], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make("runs/one", tags={"arm": "a"}), make("runs/two", "entropy")
    out = tmp_path / f"deep/table{suffix}"
    assert main(["export", str(tmp_path / "runs"), "-o", str(out)]) == 0
    assert f"4 rows of 2 runs: {out}" in capsys.readouterr().out
    back = pandas.read_parquet(out) if suffix == ".parquet" else pandas.read_csv(out)
    frame = alnb.load(tmp_path / "runs")
    assert list(back.columns) == list(frame.columns)
    for name in frame.columns:
        same = (a == b or (pandas.isna(a) and pandas.isna(b)) for a, b in zip(back[name], frame[name], strict=True))
        assert all(same), name
    assert suffix == ".csv" or back["run"].dtype == "category"


def test_export_says_what_it_cannot(make: Callable[..., store.Run], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"'.xlsx': a table is written as .parquet \(Parquet\) or .csv"):
        records.export(pandas.DataFrame({"a": [1]}), tmp_path / "table.xlsx")
    assert main(["export", str(tmp_path / "none"), "-o", str(tmp_path / "t.xlsx")]) == 1
    assert "a table is written as" in capsys.readouterr().err  # before anything is read
    assert main(["export", str(tmp_path / "none"), "-o", str(tmp_path / "t.csv")]) == 1
    assert f"no folder {tmp_path / 'none'} " in capsys.readouterr().err


def test_parameters_that_only_some_runs_have(make: Callable[..., store.Run], tmp_path: Path) -> None:
    one, two = make("one", tags={"fold": 1}), make("two", tags={"fold": "x", "note": None})
    frame = alnb.load(tmp_path).set_index("run")
    assert list(frame.loc[str(one.path), "fold"]) == ["1", "1"] and list(frame.loc[str(two.path), "fold"]) == ["x", "x"]
    assert frame["note"].isna().all() and math.isnan(frame["seconds"].sum()) is False
    records.export(frame.reset_index(), tmp_path / "t.parquet")


def test_rows_are_chosen_by_texts() -> None:
    frame = pandas.DataFrame({"dataset": pandas.Categorical(["a", "a", "b"]), "regime": [0.1, 10.0, 10.0], "seed": [0, 1, 2]})
    assert list(records.where(frame, records.conditions(["regime=10", "dataset=a"]))["seed"]) == [1]
    assert list(records.where(frame, records.conditions(["seed=0", "seed=2"]))["seed"]) == [0, 2] and len(records.where(frame, {})) == 3
    with pytest.raises(ValueError, match=r"'datset'.* dataset"):
        records.where(frame, {"datset": ["a"]})
    with pytest.raises(ValueError, match=r"dataset c or d.* a, b"):
        records.where(frame, {"dataset": ["c", "d"]})
    with pytest.raises(ValueError, match=r"'dataset'.*COLUMN=VALUE"):
        records.conditions(["dataset"])
