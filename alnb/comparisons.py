"""Strategies compared over many runs: areas under curves, wins by paired tests, ranks. Frames are those of `records.load`.

Only what is equal but for strategy and seed is compared: a *setting* is everything else that tells runs apart, see `settings`. Within one,
runs pair by seed, as they share their first labels. Unfinished runs are left out by `settings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from alnb import report
from alnb.metrics import area_under_budget_curve

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NAMED = ("dataset", "scale", "arm", "regime", "protocol")  # of what a setting is called, where there are such columns
OWN = (
    "strategy",
    "seed",
    "run",
    "commit",
    "experiment",
    "protocol.seed",
    "experiment.seed",
)  # columns in which runs of a setting may differ
OWN_PARTS = ("environment.", "strategy.", "experiment.strategy")  # and how the names of others begin
ALPHA = 0.05  # error of a family of tests


# ---- what may be compared -------------------------------------------------------------------------------------------------------


def settings(frame: DataFrame) -> DataFrame:
    """The finished runs of `frame` with a column `setting`: what runs have in common that differ in strategy and seed only, as a text.

    It names dataset and scale, then arm, regime and protocol where they differ at all, and every other parameter in which two runs of
    the same strategy and seed differ. A further column, `panels`, is the same without the arm: what makes one figure, with a
    panel for each arm.

    Raises:
        ValueError: no run is finished, or two folders hold the same strategy and seed of the same experiment.
    """
    whole = frame[_finished(frame)]
    if whole.empty:
        raise ValueError(f"none of the {frame['run'].nunique()} runs is finished: run the same sweep again, it goes on from there")
    runs = whole.drop_duplicates("run").set_index("run")
    named = [name for name in NAMED if name in runs]
    keys = [*named, *_telling_apart(runs, named)]
    twice = runs.duplicated([*keys, "strategy", "seed"], keep=False)
    if twice.any():
        same = runs[twice].groupby([*keys, "strategy", "seed"], observed=True, dropna=False, sort=False).groups
        folders = " and ".join(map(str, next(iter(same.values()))[:2]))
        raise ValueError(f"the same experiment is there twice, as {folders}: move one of them away, or choose a folder with only one")
    texts = {"setting": _texts(runs, keys), "panels": _texts(runs, [key for key in keys if key != "arm"])}
    plain = whole.astype({name: object for name in ("strategy", *named) if whole[name].dtype == "category"})
    return plain.assign(**{name: whole["run"].astype(str).map(text) for name, text in texts.items()})


def _texts(runs: DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """For each run the values of those `keys` in which runs differ, and always data set and scale, by the run's folder."""
    shown = [key for key in keys if key in ("dataset", "scale") or runs[key].nunique(dropna=False) > 1]
    return {str(run): ", ".join(_text(key, values[key]) for key in shown) for run, values in runs[shown].to_dict("index").items()}


def _finished(frame: DataFrame) -> Series:
    """Whether each row is of a run that has all its cycles, as far as the frame says how many these are."""
    if "protocol.cycles" not in frame:
        return frame["run"].notna()
    last = frame.groupby("run", observed=True)["cycle"].transform("max")
    return last + 1 >= frame["protocol.cycles"]


def _telling_apart(runs: DataFrame, named: Sequence[str]) -> list[str]:
    """Columns in which runs differ that have the same strategy, the same seed and the same `named` columns."""
    groups = runs.groupby([*named, "strategy", "seed"], observed=True, dropna=False)
    several = [group for _, group in groups if len(group) > 1]
    return [name for name in _parameters(runs) if name not in named and any(group[name].nunique(dropna=False) > 1 for group in several)]


def _parameters(runs: DataFrame) -> list[str]:
    """The columns that say what a run is, but for those in which runs of one setting may differ."""
    measured = runs.columns[runs.columns.get_loc("cycle") : runs.columns.get_loc("peak_memory_mb") + 1]
    return [name for name in runs if name not in (*OWN, *measured, "setting", "panels") and not name.startswith(OWN_PARTS)]


def mixed(frame: DataFrame) -> DataFrame:
    """Parameters in which runs of one setting differ all the same, as each strategy has its own value: is it the strategy that is compared?

    frame: from `settings`. Columns: setting, parameter, values (which strategies have which).
    """
    import pandas

    rows = []
    for setting, own in frame.drop_duplicates("run").groupby("setting", sort=False):
        for name in _parameters(own):
            if own[name].nunique(dropna=False) > 1:
                by_value = own.groupby(name, observed=True, dropna=False, sort=False)["strategy"].unique()
                told = "; ".join(f"{value}: {', '.join(sorted(map(str, strategies)))}" for value, strategies in by_value.items())
                rows.append({"setting": setting, "parameter": name, "values": told})
    return pandas.DataFrame(rows, columns=["setting", "parameter", "values"])


def _text(name: str, value: Any) -> str:
    """A column's value for people; texts that say by themselves what they are come without the name."""
    if name in ("dataset", "arm", "protocol"):
        return str(value)
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


# ---- areas ----------------------------------------------------------------------------------------------------------------------


def areas(frame: DataFrame) -> DataFrame:
    """Area under the budget curve of each run: a row for each setting, strategy and seed, with column `area`, a mean accuracy over budgets.

    frame: from `settings`. Within a setting areas are over the labels that all its runs have; runs of a single cycle are left out.
    """
    import pandas

    rows = []
    for setting, own in frame.groupby("setting", sort=False, observed=True):
        curves = own.pivot_table(index="n_labelled", columns=["strategy", "seed"], values="accuracy", observed=True).dropna()
        if len(curves) > 1:
            found = {key: area_under_budget_curve(list(curves.index), list(curves[key])) for key in curves}
            rows += [{"setting": setting, "strategy": s, "seed": seed, "area": area} for (s, seed), area in found.items()]
    return pandas.DataFrame(rows, columns=["setting", "strategy", "seed", "area"])


def summary(areas: DataFrame) -> DataFrame:
    """Mean area with its 95 % interval over seeds: a row for each setting and strategy, the best of a setting first."""
    import pandas

    rows = []
    for (setting, strategy), own in areas.groupby(["setting", "strategy"], sort=False):
        low, high = report.interval(own["area"])
        rows.append({"setting": setting, "strategy": strategy, "area": own["area"].mean(), "low": low, "high": high, "seeds": len(own)})
    table = pandas.DataFrame(rows, columns=["setting", "strategy", "area", "low", "high", "seeds"])
    return table.sort_values(["setting", "area"], ascending=[True, False], kind="stable", ignore_index=True)


# ---- wins -----------------------------------------------------------------------------------------------------------------------


def wins(areas: DataFrame) -> DataFrame:
    """Every two strategies of each setting by a paired t-test over seeds on their areas.

    Columns: setting, first, second, difference (mean area of the first less that of the second), low, high (its 95 % interval, not
    corrected), seeds, p (two-sided; NaN for fewer than two seeds), p_corrected (Holm, over all rows), winner ("first", "second", or ""
    where the corrected p is above 0.05).

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    import pandas

    rows: list[dict[str, Any]] = []
    for setting, own in areas.groupby("setting", sort=False):
        by_seed = own.pivot(index="seed", columns="strategy", values="area")
        for first, second in combinations(dict.fromkeys(own["strategy"]), 2):
            difference = (by_seed[first] - by_seed[second]).dropna()
            low, high = report.interval(difference) if len(difference) else (math.nan, math.nan)
            row = {"setting": setting, "first": first, "second": second, "difference": difference.mean(), "low": low, "high": high}
            rows.append({**row, "seeds": len(difference), "p": paired_t(difference)})
    columns = ["setting", "first", "second", "difference", "low", "high", "seeds", "p"]
    table = pandas.DataFrame(rows, columns=columns)
    corrected = holm(table["p"])
    clear = [math.isfinite(p) and p <= ALPHA for p in corrected]
    winner = [("first" if d > 0 else "second") if won else "" for won, d in zip(clear, table["difference"], strict=True)]
    return table.assign(p_corrected=corrected, winner=winner)


def paired_t(differences: Iterable[float]) -> float:
    """Two-sided p of Student's t-test that the mean of paired `differences` is zero; NaN for fewer than two of them."""
    from scipy import stats

    values = [float(value) for value in differences]
    n = len(values)
    if n < 2:
        return math.nan
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    if spread <= 1e-12 * abs(mean) or spread == 0:  # equal differences: rounding is all that is left of their spread
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / spread, n - 1))


def holm(p: Iterable[float]) -> list[float]:
    """Holm's correction of p-values that belong to one family; NaN stays, and does not count."""
    values = list(map(float, p))
    order = sorted((k for k, value in enumerate(values) if not math.isnan(value)), key=values.__getitem__)
    corrected, largest = [math.nan] * len(values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[k]))
        corrected[k] = largest
    return corrected


def win_matrix(wins: DataFrame) -> DataFrame:
    """In how many settings the strategy of the row clearly beat that of the column, from a table of `wins`; NaN where they never met."""
    import pandas

    names = list(dict.fromkeys([*wins["first"], *wins["second"]]))
    matrix = pandas.DataFrame(math.nan, index=names, columns=names)
    for row in wins[wins["p"].notna()].itertuples():
        for one, other, side in ((row.first, row.second, "first"), (row.second, row.first, "second")):
            before = matrix.loc[one, other]
            matrix.loc[one, other] = (0 if math.isnan(before) else before) + (row.winner == side)
    return matrix


# ---- ranks ----------------------------------------------------------------------------------------------------------------------


def ranks(areas: DataFrame) -> DataFrame:
    """Mean rank of each strategy by area, 1 being the best, over the settings and seeds that all strategies were run in.

    Columns: strategy, rank, first (share of them in which it was alone at the top or shared it), blocks (how many there were). Equal areas
    share the mean of their ranks. Empty where no setting and seed has all strategies.
    """
    import pandas

    table = areas.pivot_table(index=["setting", "seed"], columns="strategy", values="area", observed=True).dropna()
    names = ["strategy", "rank", "first", "blocks"]
    if table.empty:
        return pandas.DataFrame(columns=names)
    ranked = table.rank(axis=1, ascending=False)
    best = table.eq(table.max(axis=1), axis=0)
    rows = [(name, ranked[name].mean(), best[name].mean(), len(table)) for name in table]
    return pandas.DataFrame(rows, columns=names).sort_values("rank", ignore_index=True, kind="stable")


def friedman(areas: DataFrame) -> float:
    """p of Friedman's test that all strategies are equally good, over the blocks of `ranks`; NaN below 3 strategies or 2 blocks."""
    from scipy import stats

    table = areas.pivot_table(index=["setting", "seed"], columns="strategy", values="area", observed=True).dropna()
    if table.shape[1] < 3 or len(table) < 2 or table.eq(table.iloc[:, 0], axis=0).all(axis=None):
        return math.nan
    return float(stats.friedmanchisquare(*(table[name] for name in table)).pvalue)


# ---- beside the published numbers -----------------------------------------------------------------------------------------------


def printed(frame: DataFrame, published: DataFrame) -> DataFrame:
    """The published accuracies of the data sets that `frame` has runs of at scale paper: at other scales it is another experiment."""
    own = frame[frame["scale"].astype(str) == "paper"] if "scale" in frame else frame.iloc[:0]
    known = (published["metric"] == "accuracy") & published["exact"].astype(bool)
    return published[known & published["dataset"].isin(set(own["dataset"].astype(str)))]


def beside(frame: DataFrame, published: DataFrame) -> DataFrame:
    """Every published accuracy of a data set in `frame`, and what runs of scale paper measured with the same arm, strategy and labels.

    Columns: paper, item, dataset, arm, strategy, n_labelled, published, measured (mean over seeds), low, high (95 % interval), seeds; of
    what was not run the last four are NaN.
    """
    import pandas

    keys = ["dataset", "arm", "strategy", "n_labelled"]
    known = (published["metric"] == "accuracy") & published["exact"].astype(bool)
    told = published[known & published["dataset"].isin(set(frame["dataset"].astype(str)))].rename(columns={"value": "published"})
    own = frame[frame["scale"].astype(str) == "paper"] if "scale" in frame else frame.iloc[:0]
    rows = []
    for key, runs in own.groupby(keys, observed=True):
        low, high = report.interval(runs["accuracy"])
        found = {"measured": runs["accuracy"].mean(), "low": low, "high": high, "seeds": len(runs)}
        rows.append({**dict(zip(keys, key, strict=True)), **found})
    measured = pandas.DataFrame(rows, columns=[*keys, "measured", "low", "high", "seeds"])
    measured = measured.astype({"dataset": object, "arm": object, "strategy": object, "n_labelled": float})
    return told[["paper", "item", *keys, "published"]].merge(measured, how="left", on=keys)
