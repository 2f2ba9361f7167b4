"""Strategies compared over many runs: areas under curves, wins by paired tests, ranks. Frames are those of `records.load`.

Only what is equal but for strategy and seed is compared: a *setting* is everything else that tells runs apart, see `settings`. Within one,
runs pair by seed, as they share their first labels. Unfinished runs are left out by `settings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from alnb.learn.metrics import area_under_budget_curve
from alnb.report import figures as report

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NAMED = ("dataset", "scale", "arm", "regime", "protocol")  # of what a setting is called, where there are such columns
OWN = ("strategy", "seed", "run", "commit", "experiment", "protocol.seed", "experiment.seed")  # in which runs of a setting may differ
STRATEGY = ("strategy.", "experiment.strategy")  # how columns begin that say what a strategy is
DIGESTS = ("fingerprint", "sha256", "source", "setting")  # how columns end that tell apart, but tell people nothing
DERIVED = ("setting", "panels")  # the columns that `settings` adds
ALPHA = 0.05  # error of a family of tests
SEEDS = 3  # fewer decide nothing


# ---- what may be compared -------------------------------------------------------------------------------------------------------


def settings(frame: DataFrame) -> DataFrame:
    """The finished runs of `frame` with a column `setting`: what runs have in common that differ in strategy and seed only, as a text.

    It names dataset and scale, then arm, regime and protocol where they differ at all, and other parameters in which runs of one strategy
    differ, as few as tell all of them apart. Where runs of one strategy differ only in what that strategy is, they become two strategies,
    as ``vaal (beta 10)``. A further column, `panels`, is `setting` without the arm: what makes one figure, with a panel for each arm. A
    run's own columns of these names become ``run.setting`` and ``run.panels``.

    Raises:
        ValueError: no run is finished, or two folders hold the same strategy and seed of the same experiment.
    """
    frame = frame.rename(columns={name: f"run.{name}" for name in DERIVED if name in frame})
    whole = frame[_finished(frame)]
    if whole.empty:
        raise ValueError(f"none of the {frame['run'].nunique()} runs is finished: run the same sweep again, it goes on from there")
    runs = whole.drop_duplicates("run").set_index("run")
    named = [name for name in NAMED if name in runs]
    keys = [*named, *_telling_apart(runs, named, [name for name in _parameters(runs) if name not in named])]
    strategies = _strategies(runs, keys)
    _once(runs.assign(strategy=strategies), [*keys, "strategy", "seed"])
    texts = {"setting": _texts(runs, keys), "panels": _texts(runs, [key for key in keys if key != "arm"]), "strategy": strategies}
    plain = whole.astype({name: object for name in ("strategy", *named) if whole[name].dtype == "category"})
    return plain.assign(**{name: whole["run"].astype(str).map(text) for name, text in texts.items()})


def _finished(frame: DataFrame) -> Series:
    """Whether each row is of a run that has all its cycles, as far as the frame says how many these are."""
    if "protocol.cycles" not in frame:
        return frame["run"].notna()
    last = frame.groupby("run", observed=True)["cycle"].transform("max")
    return last + 1 >= frame["protocol.cycles"]


def _parameters(runs: DataFrame) -> list[str]:
    """The columns that say what a run is, but for those in which runs of one setting may differ, plain ones first."""
    measured = runs.columns[runs.columns.get_loc("cycle") : runs.columns.get_loc("peak_memory_mb") + 1]
    other = (*OWN, *DERIVED, *measured)
    names = [name for name in runs if name not in other and not name.startswith(("environment.", *STRATEGY))]
    return sorted(names, key=_is_digest)


def _is_digest(name: str) -> bool:
    return name.endswith(DIGESTS)


def _telling_apart(runs: DataFrame, keys: Sequence[str], candidates: Iterable[str]) -> list[str]:
    """Of the candidates those that tell apart runs of one strategy with the same `keys`, each only if those before it do not.

    Digests only count between runs of the same seed: a seed may have a backbone of its own.
    """
    found: list[str] = []
    for name in candidates:
        same = [*keys, *found, "strategy", *(["seed"] if _is_digest(name) else [])]
        if (runs.groupby(same, observed=True, dropna=False)[name].nunique(dropna=False) > 1).any():
            found.append(name)
    return found


def _strategies(runs: DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """What each run's strategy is called, by the run's folder."""
    candidates = sorted((name for name in runs if name.startswith(STRATEGY)), key=_is_digest)
    names = {str(run): str(strategy) for run, strategy in runs["strategy"].items()}
    for strategy, own in runs.groupby("strategy", observed=True):
        apart = _telling_apart(own, keys, candidates)
        for run, values in own[apart].to_dict("index").items() if apart else ():
            told = ", ".join(_text(name.rpartition(".")[2], value) for name, value in values.items())
            names[str(run)] = f"{strategy} ({told})"
    return names


def _once(runs: DataFrame, keys: list[str]) -> None:
    """Raises: ValueError, where two runs have the same `keys`; it names their folders."""
    twice = runs[runs.duplicated(keys, keep=False)]
    if len(twice):
        same = twice.groupby(keys, observed=True, dropna=False, sort=False).groups
        folders = " and ".join(map(str, next(iter(same.values()))[:2]))
        raise ValueError(f"the same experiment is there twice, as {folders}: move one of them away, or choose a folder with only one")


def _texts(runs: DataFrame, keys: Sequence[str]) -> dict[str, str]:
    """For each run the values of those `keys` in which runs differ, and always data set and scale, by the run's folder."""
    shown = [key for key in keys if key in ("dataset", "scale") or runs[key].nunique(dropna=False) > 1]
    return {str(run): ", ".join(_text(key, values[key]) for key in shown) for run, values in runs[shown].to_dict("index").items()}


def _text(name: str, value: Any) -> str:
    """A column's value for people; texts that say by themselves what they are come without the name."""
    if name in ("dataset", "arm", "protocol"):
        return str(value)
    if _is_digest(name):
        return f"{name} {str(value)[:8]}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


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
    """Mean area with its 95 % interval over seeds (NaN for one seed): a row for each setting and strategy, the best of a setting first."""
    import pandas

    rows = []
    for (setting, strategy), own in areas.groupby(["setting", "strategy"], sort=False):
        low, high = _interval(own["area"])
        rows.append({"setting": setting, "strategy": strategy, "area": own["area"].mean(), "low": low, "high": high, "seeds": len(own)})
    table = pandas.DataFrame(rows, columns=["setting", "strategy", "area", "low", "high", "seeds"])
    return table.sort_values(["setting", "area"], ascending=[True, False], kind="stable", ignore_index=True)


def _interval(values: Series) -> tuple[float, float]:
    """`report.interval`, NaN where a single value or none has no interval."""
    return report.interval(values) if len(values) > 1 else (math.nan, math.nan)


# ---- wins -----------------------------------------------------------------------------------------------------------------------


def wins(areas: DataFrame) -> DataFrame:
    """Every two strategies of each setting by a paired t-test over seeds on their areas.

    Columns: setting, first, second, difference (mean area of the first less that of the second), low, high (its 95 % interval, not
    corrected), seeds, p (two-sided; NaN for fewer than three seeds), p_corrected (Holm, over all rows), winner ("first", "second", or ""
    where the corrected p is above 0.05).

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    import pandas

    rows: list[dict[str, Any]] = []
    for setting, own in areas.groupby("setting", sort=False):
        by_seed = own.pivot(index="seed", columns="strategy", values="area")
        for first, second in combinations(dict.fromkeys(own["strategy"]), 2):
            difference = (by_seed[first] - by_seed[second]).dropna()
            low, high = _interval(difference)
            row = {"setting": setting, "first": first, "second": second, "difference": difference.mean(), "low": low, "high": high}
            rows.append({**row, "seeds": len(difference), "p": paired_t(difference)})
    columns = ["setting", "first", "second", "difference", "low", "high", "seeds", "p"]
    table = pandas.DataFrame(rows, columns=columns)
    corrected = holm(table["p"])
    clear = [math.isfinite(p) and p <= ALPHA for p in corrected]
    winner = [("first" if d > 0 else "second") if won else "" for won, d in zip(clear, table["difference"], strict=True)]
    return table.assign(p_corrected=corrected, winner=winner)


def paired_t(differences: Iterable[float]) -> float:
    """Two-sided p of Student's t-test that the mean of paired `differences` is zero; NaN for fewer than three of them."""
    from scipy import stats

    values = [float(value) for value in differences]
    n = len(values)
    if n < SEEDS:
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
    """Mean rank of each strategy by area within each setting, 1 being the best, over the seeds that all strategies of the setting have.

    Columns: setting, strategy, rank, first (share of the seeds in which it was at the top, alone or not), seeds, p (of Friedman's test that
    all strategies of the setting are equally good; NaN below 3 strategies or 3 seeds). Equal areas share the mean of their ranks.
    """
    import pandas

    rows = []
    for setting, own in areas.groupby("setting", sort=False):
        table = own.pivot(index="seed", columns="strategy", values="area").dropna()
        if len(table):
            ranked, best, p = table.rank(axis=1, ascending=False), table.eq(table.max(axis=1), axis=0), _friedman(table)
            rows += [(setting, name, ranked[name].mean(), best[name].mean(), len(table), p) for name in table]
    found = pandas.DataFrame(rows, columns=["setting", "strategy", "rank", "first", "seeds", "p"])
    return found.sort_values(["setting", "rank"], kind="stable", ignore_index=True)


def _friedman(table: DataFrame) -> float:
    """p of Friedman's test on a table with a row for each seed and a column for each strategy."""
    from scipy import stats

    if table.shape[1] < 3 or len(table) < SEEDS or table.eq(table.iloc[:, 0], axis=0).all(axis=None):
        return math.nan
    return float(stats.friedmanchisquare(*(table[name] for name in table)).pvalue)


def rank_table(ranks: DataFrame) -> DataFrame:
    """A row for each strategy, a column for each setting, and `mean`: over the settings that have all strategies, each counting once.

    NaN where a strategy was not run; `mean` is NaN where no setting has them all.
    """
    table = ranks.pivot(index="strategy", columns="setting", values="rank")
    whole = table.dropna(axis=1)
    return table.assign(mean=whole.mean(axis=1) if whole.shape[1] else math.nan).sort_values("mean", kind="stable")


# ---- beside the published numbers -----------------------------------------------------------------------------------------------


def printed(frame: DataFrame, published: DataFrame) -> DataFrame:
    """The published accuracies of the data sets that `frame` has runs of at scale paper: at other scales it is another experiment."""
    return _accuracies(published, _at_paper(frame))


def beside(frame: DataFrame, published: DataFrame) -> DataFrame:
    """Every published accuracy of a data set in `frame`, and what runs of scale paper measured with the same arm, strategy and labels.

    frame: from `settings`; where several settings measured it, each has a row. Columns: paper, item, dataset, arm, strategy, n_labelled,
    published, setting, measured (mean over seeds), low, high (95 % interval; NaN for one seed), seeds; of what was not run the last five
    are NaN.
    """
    import pandas

    keys, measures = ["dataset", "arm", "strategy", "n_labelled"], ["setting", "measured", "low", "high", "seeds"]
    told = _accuracies(published, frame).rename(columns={"value": "published"})
    rows = []
    for key, runs in _at_paper(frame).groupby([*keys, "setting"], observed=True):
        low, high = _interval(runs["accuracy"])
        rows.append((*key, runs["accuracy"].mean(), low, high, runs["seed"].nunique()))
    measured = pandas.DataFrame(rows, columns=[*keys, *measures])
    measured = measured.astype({"dataset": object, "arm": object, "strategy": object, "setting": object, "n_labelled": float})
    return told[["paper", "item", *keys, "published"]].merge(measured, how="left", on=keys)


def _at_paper(frame: DataFrame) -> DataFrame:
    return frame[frame["scale"].astype(str) == "paper"] if "scale" in frame else frame.iloc[:0]


def _accuracies(published: DataFrame, frame: DataFrame) -> DataFrame:
    """The accuracies that stand in print, and not only bounds, of the data sets in `frame`."""
    exact = (published["metric"] == "accuracy") & published["exact"].astype(bool)
    return published[exact & published["dataset"].isin(set(frame["dataset"].astype(str)))]
