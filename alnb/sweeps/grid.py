"""What a sweep is made of: a notebook's parameters, those along which it is cut into cells, and everything that is wrong with them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, get_origin

from alnb import kernel_free, notebook, store
from alnb.notebook import BadParameter, NotebookFailed, Parameter
from alnb.sweeps.cell import Cell

PLACES = ("runs", "figures", "data_root", "download")  # parameters that say where things are: not part of an experiment
Words = Sequence[Sequence[str]]
FIELDS = ("notebook", "parameters", "over", "says")  # of a sweep file


@dataclass(frozen=True)
class Grid:
    """A sweep: `axes` are cut into single values, each a cell; the other `values` are the same in every cell."""

    notebook: Path
    values: Mapping[str, Any]  # as given, but for the axes
    lists: Mapping[str, list[Any]]  # axes that the notebook takes as lists: a cell has one element, the report has them all
    scalars: Mapping[str, list[Any]]  # axes that the notebook takes one at a time: there is a report for each combination

    @cached_property
    def known(self) -> Mapping[str, Parameter]:
        """The parameters of the notebook."""
        return notebook.parameters(self.notebook)

    @property
    def root(self) -> Path:
        """Where its runs are, and its cells below."""
        return Path(self.values.get("runs") or store.workspace() / "runs").expanduser()

    def cells(self) -> list[Cell]:
        """A cell for each combination of one value on each axis, the last axis running fastest."""
        return [self._cell(dict(zip(self._axes, point, strict=True))) for point in product(*self._axes.values())]

    def reports(self) -> list[dict[str, Any]]:
        """The parameters of each execution over the whole grid."""
        whole = {name: list(values) for name, values in self.lists.items()}
        points = product(*self.scalars.values())
        return [{**self.values, **whole, **dict(zip(self.scalars, point, strict=True))} for point in points]

    @property
    def _axes(self) -> dict[str, list[Any]]:
        return {**self.scalars, **self.lists}

    def _cell(self, point: Mapping[str, Any]) -> Cell:
        single = {name: [value] if name in self.lists else value for name, value in point.items()}
        values = {**self.values, **single}
        everything = {**{name: _default(p) for name, p in self.known.items()}, **values}
        experiment = {name: value for name, value in everything.items() if name not in PLACES}
        key = store.fingerprint(self._code, experiment)[:10]
        return Cell(self.notebook.resolve(), values, point, self.root / "cells" / self.notebook.stem, key)

    @cached_property
    def _code(self) -> list[str]:
        """What the notebook does, without what it shows."""
        return [cell.text for cell in notebook.sources(self.notebook) if not {"report", "parameters"} & set(cell.tags)]


def grid(path: Path, given: Mapping[str, Any], over: Iterable[str] | None = None) -> Grid:
    """The sweep of the notebook at `path` over values by name. Where the notebook takes a single value, several are an axis.

    Args:
        given: values as the notebook takes them, or a list of these.
        over: the list parameters to cut into cells; None: all that are not empty.
    Raises:
        BadParameter: all that is wrong, a line each.
    """
    known = notebook.parameters(path)
    problems: list[str] = []
    scalars: dict[str, list[Any]] = {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        try:
            if _is_axis(value, known.get(name)):
                checked = [notebook.check({name: one}, known)[name] for one in value]
                notebook.check({name: value}, {name: Parameter(name, "", "", "")})  # nothing twice
                scalars[name] = checked
            else:
                values |= notebook.check({name: value}, known)
        except BadParameter as error:
            problems.append(str(error))
    every = {n: values.get(n, _default(p)) for n, p in known.items() if _is_list(p) and values.get(n, _default(p))}
    wanted = list(every) if over is None else list(over)
    problems += [f"over: {_no_axis(name, known, every)}" for name in wanted if name not in every and name not in scalars]
    if problems:
        raise BadParameter(_all(problems))
    lists = {name: every[name] for name in wanted if name in every}
    return Grid(path, {n: v for n, v in values.items() if n not in lists}, lists, scalars)


def read_words(path: Path, given: Words) -> dict[str, Any]:
    """Values from the command line as `grid` takes them: each entry is a name and the words after it, see `notebook.parse`.

    Raises:
        BadParameter: all that is wrong, a line each.
    """
    known, problems = notebook.parameters(path), list[str]()
    values: dict[str, Any] = {}
    for name, *words in given:
        try:
            if name in values:
                raise BadParameter(f"parameter {name!r} is given twice")
            if name in known and len(words) > 1 and not _is_list(known[name]):
                values[name] = [notebook.parse([[name, word]], known)[name] for word in words]
            else:
                values |= notebook.parse([[name, *words]], known)
        except BadParameter as error:
            problems.append(str(error))
            values.setdefault(name, None)
    if problems:
        raise BadParameter(_all(problems))
    return values


def examined(grid: Grid) -> Grid:
    """`grid`, when its values were looked at by the notebook's own cells tagged `check`.

    Raises:
        BadParameter: all that is wrong, a line each.
    """
    if all(_problem(grid, values) is None for values in grid.reports()):
        return grid
    problems = [problem for values in _singles(grid) if (problem := _problem(grid, values))]
    problems = problems or [problem for values in grid.reports() if (problem := _problem(grid, values))]
    raise BadParameter(_all(dict.fromkeys(problems)))


def _problem(grid: Grid, values: Mapping[str, Any]) -> str | None:
    """What the notebook says of these parameters; None where nothing is wrong."""
    try:
        kernel_free.examine(grid.notebook, values)
    except NotebookFailed as error:
        return None if error.kind == "NothingToRun" and _is_part(grid, values) else error.reason
    return None


def _is_part(grid: Grid, values: Mapping[str, Any]) -> bool:
    return any(values.get(name) != whole for name, whole in grid.lists.items())


def _singles(grid: Grid) -> Iterator[dict[str, Any]]:
    """Parameters with all defaults but one value of one axis, or but one of the values that are no axis."""
    for name, values in {**grid.scalars, **grid.lists}.items():
        for value in values:
            yield {name: [value] if name in grid.lists else value}
    for name, value in grid.values.items():
        yield {name: value}


def read_file(path: Path) -> tuple[Path, dict[str, Any], list[str] | None]:
    """Notebook, values and axes of a sweep file: YAML with `notebook` (relative to the file), `parameters`, and perhaps `over`.

    In it, as on the command line, 0:5 stands for the five whole numbers from 0 on.

    Raises:
        BadParameter: it is not there, is no such file, or names what it cannot hold.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"sweep file {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("notebook"), str):
        raise BadParameter(f"sweep file {path} names no notebook: write a line such as notebook: ../quickstart.ipynb")
    unknown = set(content) - set(FIELDS)
    parameters = content.get("parameters") or {}
    over = content.get("over")
    if unknown or not isinstance(parameters, dict) or not isinstance(over, list | None):
        raise BadParameter(f"sweep file {path} has {', '.join(sorted(unknown)) or 'another kind of entry'}: it takes {', '.join(FIELDS)}")
    return Path(os.path.relpath((path.parent / content["notebook"]).resolve())), _ranges(parameters), over


def _ranges(parameters: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and ":" in value}
    found = {}
    for name, text in texts.items():
        with suppress(ValueError):
            found[name] = list(range(*map(int, text.split(":"))))
    return {**parameters, **found}


def _is_list(parameter: Parameter) -> bool:
    return get_origin(notebook.type_of(parameter)) is list


def _is_axis(value: Any, parameter: Parameter | None) -> bool:
    """Whether several values are given for a parameter that takes one."""
    kind = None if parameter is None else notebook.type_of(parameter)
    return isinstance(value, list) and kind is not None and get_origin(kind) is None and kind is not list


def _default(parameter: Parameter) -> Any:
    """As a value where it is a literal, else as written."""
    try:
        return ast.literal_eval(parameter.default)
    except (ValueError, SyntaxError):
        return parameter.default


def _no_axis(name: str, known: Mapping[str, Parameter], every: Mapping[str, Any]) -> str:
    if name in known:
        return f"{name!r} has a single value, or none: give it several, or leave it out"
    return f"there is no parameter {name!r}; lists are {', '.join(every) or 'none'}"


def _all(problems: Iterable[str]) -> str:
    problems = list(problems)
    return (
        problems[0] if len(problems) == 1 else "\n".join([f"{len(problems)} problems, nothing was started:", *(f"- {p}" for p in problems)])
    )
