"""Tables that compare runs: labels saved, areas under curves, wins by paired tests, ranks. Frames are those of `records.load`.

Only runs with the same *setting* are compared: it is everything in which runs differ except strategy and seed, see `settings`. Within a
setting, runs pair by seed, as they have the same first labels.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, permutations
from typing import Any

import pandas
from pandas import DataFrame, Series

from alnb.report.stats import (
    area_under_budget_curve,
    difference,
    friedman,
    holm,
    interval,
    labels_needed,
    labels_to_reach,
    paired_t,
    replications,
    seeds,
    unit,
)
from alnb.report.verdicts import ALPHA

NAMED = ("dataset", "scale", "arm", "regime", "protocol")  # the columns that name a setting, if present
# columns in which the runs of a setting may differ
VARIES = ("strategy", "seed", "replication", "run", "commit", "experiment", "protocol.seed")
STRATEGY = ("strategy.", "experiment.strategy")  # beginnings of the columns that describe a strategy
DIGESTS = ("fingerprint", "sha256", "source", "setting")  # ends of the columns that differ but mean nothing to a reader
DERIVED = ("setting", "panels")  # the columns that `settings` adds


def settings(frame: DataFrame) -> DataFrame:
    """The finished runs of `frame` with two more columns, `setting` and `panels`.

    `setting` is a text that runs share if they differ in strategy and seed only. It names dataset and scale; arm, regime and protocol if
    they differ; and as few other parameters as tell the runs of a strategy apart. If runs of a strategy differ only in what that
    strategy is, they become two strategies, such as ``vaal (beta 10)``; if they differ in their pretext, such as ``pt4al, jigsaw``.
    `panels` is `setting` without the arm: one figure, with a panel for each arm. Tags of these two names get ``run.`` before them.

    Raises ValueError if no run is finished, or two folders hold the same strategy and seed of the same experiment.
    """
    frame = frame.rename(columns={name: f"run.{name}" for name in DERIVED if name in frame})
    finished = _with_pretexts(frame[_finished(frame)])
    if finished.empty:
        raise ValueError(f"none of the {frame['run'].nunique()} runs is finished: run the same sweep again to continue it")
    runs = finished.drop_duplicates("run").set_index("run")
    named = [name for name in NAMED if name in runs]
    keys = [*named, *_telling_apart(runs, named, [name for name in _parameters(runs) if name not in named])]
    strategies = _strategies(runs, keys)
    same = runs.assign(strategy=strategies).groupby([*keys, "strategy", "seed"], observed=True, dropna=False, sort=False).groups
    twice = next((folders for folders in same.values() if len(folders) > 1), None)
    if twice is not None:
        where = " and ".join(map(str, twice[:2]))
        raise ValueError(f"the same experiment is there twice, as {where}: move one of them away, or choose a folder with only one")
    texts = {"setting": _texts(runs, keys), "panels": _texts(runs, [key for key in keys if key != "arm"]), "strategy": strategies}
    plain = finished.astype({name: object for name in ("strategy", *named) if finished[name].dtype == "category"})
    return plain.assign(**{name: finished["run"].astype(str).map(text) for name, text in texts.items()})


def _finished(frame: DataFrame) -> Series:
    """Whether the run of each row has all its cycles. Runs of an unknown number of cycles count as finished."""
    if "protocol.cycles" not in frame:
        return frame["run"].notna()
    last = frame.groupby("run", observed=True)["cycle"].transform("max")
    return last + 1 >= frame["protocol.cycles"]


def _with_pretexts(frame: DataFrame) -> DataFrame:
    """`frame` with the pretext in the name of each strategy that ran with several in one arm."""
    keys = [name for name in ("arm", "strategy") if name in frame]
    if "pretext" not in frame or frame.empty:
        return frame
    several = frame.groupby(keys, observed=True)["pretext"].transform("nunique") > 1
    texts = frame["strategy"].astype(str)
    return frame.assign(strategy=texts.where(~several, texts + ", " + frame["pretext"].astype(str)))


def _parameters(runs: DataFrame) -> list[str]:
    """The columns that describe a run and must agree within a setting, digests last."""
    measured = runs.columns[runs.columns.get_loc("cycle") : runs.columns.get_loc("peak_memory_mb") + 1]
    other = (*VARIES, *DERIVED, *measured)
    names = [name for name in runs if name not in other and not name.startswith(("environment.", *STRATEGY))]
    return sorted(names, key=_is_digest)


def _is_digest(name: str) -> bool:
    return name.endswith(DIGESTS)


def _telling_apart(runs: DataFrame, keys: Sequence[str], candidates: Iterable[str]) -> list[str]:
    """The candidates that tell apart runs of one strategy with the same `keys` and the same earlier candidates.

    Digests count between runs of the same seed only, since each seed may have its own backbone.
    """
    names: list[str] = []
    for name in candidates:
        same = [*keys, *names, "strategy", *(["seed"] if _is_digest(name) else [])]
        if (runs.groupby(same, observed=True, dropna=False)[name].nunique(dropna=False) > 1).any():
            names.append(name)
    return names


def _strategies(runs: DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """The name of each run's strategy, by the run's folder."""
    candidates = sorted((name for name in runs if name.startswith(STRATEGY)), key=_is_digest)
    names = {str(run): str(strategy) for run, strategy in runs["strategy"].items()}
    for strategy, rows in runs.groupby("strategy", observed=True):
        apart = _telling_apart(rows, keys, candidates)
        for run, values in rows[apart].to_dict("index").items() if apart else ():
            options = ", ".join(_text(name.rpartition(".")[2], value) for name, value in values.items())
            names[str(run)] = f"{strategy} ({options})"
    return names


def _texts(runs: DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """The values of the `keys` in which runs differ, and always dataset and scale, by the run's folder."""
    shown = [key for key in keys if key in ("dataset", "scale") or runs[key].nunique(dropna=False) > 1]
    return {str(run): ", ".join(_text(key, values[key]) for key in shown) for run, values in runs[shown].to_dict("index").items()}


def _text(name: str, value: Any) -> str:
    """A column's value for people, after the column's name unless the value explains itself."""
    if name in ("dataset", "arm", "protocol"):
        return str(value)
    if _is_digest(name):
        return f"{name} {str(value)[:8]}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def mixed(frame: DataFrame) -> DataFrame:
    """Parameters in which strategies of one setting differ. Their effect cannot be told from that of the strategy.

    frame: from `settings`. Columns: setting, parameter, values (which strategies have which value).
    """
    rows = []
    for setting, runs in frame.drop_duplicates("run").groupby("setting", sort=False):
        for name in _parameters(runs):
            if (runs.groupby("seed")[name].nunique(dropna=False) > 1).any():  # seeds may have backbones of their own
                by_value = runs.groupby(name, observed=True, dropna=False, sort=False)["strategy"].unique()
                values = "; ".join(f"{value}: {', '.join(sorted(map(str, strategies)))}" for value, strategies in by_value.items())
                rows.append({"setting": setting, "parameter": name, "values": values})
    return pandas.DataFrame(rows, columns=["setting", "parameter", "values"])


def _mean_curves(frame: DataFrame) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """Numbers of labels, and the mean accuracy over seeds for each, by arm and strategy."""
    means = frame.groupby(["arm", "strategy", "n_labelled"], sort=False)["accuracy"].mean()
    curves = means.groupby(["arm", "strategy"], sort=False)
    return {key: (list(curve.index.get_level_values("n_labelled")), list(curve)) for key, curve in curves}


def labels_table(frame: DataFrame, levels: Iterable[float]) -> DataFrame:
    """Labels needed to reach each accuracy of `levels`, on the mean curve over seeds; a row for each arm and strategy."""
    rows = {}
    for key, (labels, accuracy) in _mean_curves(frame).items():
        reached = {f"{level:.1%}": labels_to_reach(labels, accuracy, level) for level in levels}
        area = area_under_budget_curve(labels, accuracy) if len(labels) > 1 else math.nan
        rows[key] = {**reached, "final accuracy": accuracy[-1], "area under curve": area}
    return pandas.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "strategy"])


def savings(frame: DataFrame, reference: str = "random") -> DataFrame:
    """The labels that each strategy saves against `reference` in the same arm, on the mean curves over replications.

    Columns: arm, strategy, level (the final accuracy of the reference), labels (needed to reach it), budget (with which the reference is
    there first), saved (the share of the budget that was not needed; NaN if the level is not reached), saved_low, saved_high (its 95 %
    interval, see `stats.labels_needed`; 0 or less is no saving; NaN for one replication), final (accuracy of the strategy).
    Raises ValueError if an arm has no run of `reference`.
    """
    rows, frame = [], replications(frame)
    for arm, runs in frame.groupby("arm", sort=False, observed=True):
        curves = {
            name: part.pivot_table(index="seed", columns="n_labelled", values="accuracy")
            for name, part in runs.groupby("strategy", sort=False, observed=True)
        }
        if reference not in curves:
            raise ValueError(f"no run of strategy {reference!r} in arm {arm!r} to compare with: add {reference!r} to the strategies")
        final, own = curves[reference].iloc[:, -1], curves[reference].mean()
        budget = labels_to_reach(own.index, own, float(final.mean()))  # the reference may have been there before its last cycle
        for strategy, curve in curves.items():
            shared = curve.dropna().index.intersection(final.index)
            needed, accuracy = labels_needed(curve.loc[shared], final[shared]), float(curve.iloc[:, -1].mean())
            saved = (1 - labels / budget for labels in (needed.mean, needed.high, needed.low))
            rows.append((arm, strategy, float(final[shared].mean()), needed.mean, budget, *saved, accuracy))
    return pandas.DataFrame(rows, columns=["arm", "strategy", "level", "labels", "budget", "saved", "saved_low", "saved_high", "final"])


def finding(frame: DataFrame, reference: str = "random") -> str:
    """What the runs show, in computed sentences: for each arm which strategy saved most labels, or that none did."""
    frame = replications(frame)
    table, sentences = savings(frame, reference), []
    for arm, rows in table[table["strategy"] != reference].groupby("arm", sort=False):
        level, budget = rows["level"].iloc[0], rows["budget"].iloc[0]
        head = f"{arm}: {reference} reached {level:.1%} with {budget:.0f} labels"
        reached = rows.dropna(subset="labels").sort_values("labels")
        if reached.empty or reached["labels"].iloc[0] >= budget:
            sentences.append(f"{head}; no other strategy reached that with fewer.")
            continue
        best = reached.iloc[0]
        others = "".join(f", {row.strategy} {row.labels:.0f}" for row in reached.iloc[1:].itertuples())
        missed = ", ".join(rows[rows["labels"].isna()]["strategy"])
        failed = f"; not reached by {missed}" if missed else ""
        spread = "" if math.isnan(best.saved_low) else f", 95 % interval {_share(best.saved_low)} to {_share(best.saved_high)}"
        sentences.append(f"{head}; {best.strategy} needed {best.labels:.0f} ({best.saved:.0%} fewer{spread}){others}{failed}.")
    return " ".join([*sentences, *_between_arms(frame, reference)]) + f" (Means, n = {seeds(frame)}; the best is chosen by the same runs.)"


def _share(saved: float) -> str:
    return f"{saved:.0%}" if math.isfinite(saved) else "no saving"


def _between_arms(frame: DataFrame, reference: str) -> list[str]:
    """How much more accurate the later arms are than the first one with the first labels, paired by replication."""
    arms = list(frame["arm"].unique())
    start = frame[(frame["strategy"] == reference) & (frame["cycle"] == 0)].set_index("seed")
    sentences = []
    for arm in arms[1:]:
        gain = difference(start[start["arm"] == arm]["accuracy"] - start[start["arm"] == arms[0]]["accuracy"])
        sentences.append(f"With the first {int(start['n_labelled'].iloc[0])} labels {arm} over {arms[0]}: {gain}.")
    return sentences


def areas(frame: DataFrame) -> DataFrame:
    """Area under the budget curve of each replication, a mean accuracy over budgets. Columns: setting, strategy, seed, area.

    frame: from `settings`. The areas of a setting cover the labels that all its runs have. Runs of a single cycle are left out.
    """
    rows = []
    for setting, runs in frame.groupby("setting", sort=False, observed=True):
        curves = runs.pivot_table(index="n_labelled", columns=["strategy", unit(runs)], values="accuracy", observed=True).dropna()
        if len(curves) > 1:
            rows += [(setting, *key, area_under_budget_curve(list(curves.index), list(curves[key]))) for key in curves]
    return pandas.DataFrame(rows, columns=["setting", "strategy", "seed", "area"])


def summary(areas: DataFrame) -> DataFrame:
    """Mean area with its 95 % interval over seeds (NaN for one seed): a row for each setting and strategy, the best of a setting first."""
    groups = areas.groupby(["setting", "strategy"], sort=False)["area"]
    rows = [(*key, values.mean(), *_interval(values), len(values)) for key, values in groups]
    table = pandas.DataFrame(rows, columns=["setting", "strategy", "area", "low", "high", "seeds"])
    return table.sort_values(["setting", "area"], ascending=[True, False], kind="stable", ignore_index=True)


def _interval(values: Series) -> tuple[float, float]:
    """`stats.interval`, but NaN for fewer than two values."""
    return interval(values) if len(values) > 1 else (math.nan, math.nan)


def wins(areas: DataFrame) -> DataFrame:
    """A paired t-test over seeds on the areas of every two strategies of each setting.

    Columns: setting, first, second, difference (mean area of the first minus that of the second), low, high (its 95 % interval, not
    corrected), seeds, p (two-sided; NaN for fewer than five seeds), p_corrected (Holm, over all rows), winner ("first", "second", or ""
    if the corrected p is above 0.05).
    """
    rows = []
    for setting, group in areas.groupby("setting", sort=False):
        by_seed = group.pivot(index="seed", columns="strategy", values="area")
        for first, second in combinations(dict.fromkeys(group["strategy"]), 2):
            gains = (by_seed[first] - by_seed[second]).dropna()
            rows.append((setting, first, second, gains.mean(), *_interval(gains), len(gains), paired_t(gains)))
    table = pandas.DataFrame(rows, columns=["setting", "first", "second", "difference", "low", "high", "seeds", "p"])
    corrected = holm(table["p"])
    winner = [("first" if d > 0 else "second") if p <= ALPHA else "" for p, d in zip(corrected, table["difference"], strict=True)]
    return table.assign(p_corrected=corrected, winner=winner)


def win_matrix(wins: DataFrame) -> DataFrame:
    """In how many settings the strategy of the row beat that of the column, from a table of `wins`. NaN if they never met."""
    names = list(dict.fromkeys([*wins["first"], *wins["second"]]))
    met = wins[wins["p"].notna()]
    both = pandas.concat([met.assign(row=met[a], column=met[b], won=met["winner"] == a) for a, b in permutations(("first", "second"))])
    counts = both.pivot_table(index="row", columns="column", values="won", aggfunc="sum")
    return counts.reindex(index=names, columns=names).astype(float).rename_axis(index=None, columns=None)


def ranks(areas: DataFrame) -> DataFrame:
    """Mean rank of each strategy by area within each setting, 1 is best, over the seeds that all strategies of the setting have.

    Columns: setting, strategy, rank (equal areas share the mean of their ranks), first (share of seeds in which no strategy was better),
    seeds, p (of Friedman's test that all strategies of the setting are equally good; NaN below 3 strategies or 5 seeds).
    """
    rows = []
    for setting, group in areas.groupby("setting", sort=False):
        table = group.pivot(index="seed", columns="strategy", values="area").dropna()
        if len(table):
            ranked, best, p = table.rank(axis=1, ascending=False), table.eq(table.max(axis=1), axis=0), friedman(table)
            rows += [(setting, name, ranked[name].mean(), best[name].mean(), len(table), p) for name in table]
    ranking = pandas.DataFrame(rows, columns=["setting", "strategy", "rank", "first", "seeds", "p"])
    return ranking.sort_values(["setting", "rank"], kind="stable", ignore_index=True)


def rank_table(ranks: DataFrame) -> DataFrame:
    """A row for each strategy, a column for each setting, and `mean` over the settings that have all strategies.

    NaN for a strategy that was not run. `mean` is NaN if no setting has all strategies.
    """
    table = ranks.pivot(index="strategy", columns="setting", values="rank")
    complete = table.dropna(axis=1)
    return table.assign(mean=complete.mean(axis=1) if complete.shape[1] else math.nan).sort_values("mean", kind="stable")


def printed(frame: DataFrame, published: DataFrame) -> DataFrame:
    """The published accuracies of the data sets with runs at scale `paper` in `frame`: at another scale it is another experiment."""
    return _accuracies(published, _at_paper(frame))


def with_published(frame: DataFrame, published: DataFrame) -> DataFrame:
    """Each published accuracy of a data set in `frame`, and the accuracy of our runs with the same arm, strategy and labels.

    frame: from `settings`; only runs at scale `paper` count. If several settings measured an accuracy, each has a row. Columns: paper,
    item, dataset, arm, strategy, n_labelled, published, setting, measured (mean over replications), low, high (95 % interval; NaN for
    one replication), seeds (the number of replications). The last five are NaN if it was not measured.
    """
    keys = ["dataset", "arm", "strategy", "n_labelled"]
    theirs = _accuracies(published, frame).rename(columns={"value": "published"})
    groups = replications(_at_paper(frame)).groupby([*keys, "setting"], observed=True)["accuracy"]
    rows = [(*key, values.mean(), *_interval(values), len(values)) for key, values in groups]
    ours = pandas.DataFrame(rows, columns=[*keys, "setting", "measured", "low", "high", "seeds"])
    ours = ours.astype({"dataset": object, "arm": object, "strategy": object, "setting": object, "n_labelled": float})
    return theirs[["paper", "item", *keys, "published"]].merge(ours, how="left", on=keys)


def _at_paper(frame: DataFrame) -> DataFrame:
    return frame[frame["scale"].astype(str) == "paper"] if "scale" in frame else frame.iloc[:0]


def _accuracies(published: DataFrame, frame: DataFrame) -> DataFrame:
    """The accuracies that are printed, not inferred or bounds, of the data sets in `frame`."""
    exact = (published["metric"] == "accuracy") & (published["kind"] == "printed")
    return published[exact & published["dataset"].isin(set(frame["dataset"].astype(str)))]
