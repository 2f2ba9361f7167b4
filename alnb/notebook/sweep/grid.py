"""What a sweep is made of: a notebook's parameters, those along which it is cut into cells, and everything that is wrong with them."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from alnb import store
from alnb.notebook import kernel_free, parameters
from alnb.notebook.execute import NotebookFailed
from alnb.notebook.parameters import BadParameter, Parameter
from alnb.notebook.sweep.cell import PLACES, Cell, named

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
        return parameters.read(self.notebook)

    @property
    def root(self) -> Path:
        """Where its runs are, and its cells below: the same for a worker elsewhere, whatever folder that was started in."""
        return Path(self.values.get("runs") or store.workspace() / "runs").expanduser().absolute()

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
        experiment = {name: value for name, value in {**self._defaults, **values}.items() if name not in PLACES}
        own = {name: value for name, value in experiment.items() if value != self._defaults[name]}
        words = re.sub("[^A-Za-z0-9.]+", "-", named(own)).strip("-")[:80]
        key = "-".join(filter(None, (words, store.fingerprint(self.code, experiment)[:10])))
        return Cell(self.notebook.resolve(), values, point, self.root / "cells" / self.notebook.stem, key)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {name: _default(parameter) for name, parameter in self.known.items()}

    @cached_property
    def code(self) -> str:
        """Digest of what the notebook does, see `parameters.digest`."""
        return parameters.digest(self.notebook)


def grid(path: Path, given: Mapping[str, Any], over: Iterable[str] | None = None) -> Grid:
    """The sweep of the notebook at `path` over values by name. Where the notebook takes a single value, several are an axis.

    The notebook's own cells tagged `check` have looked at the values.

    Args:
        given: values as the notebook takes them, or a list of these.
        over: the list parameters to cut into cells; None: all that are not empty.
    Raises:
        BadParameter: all that is wrong, a line each.
    """
    found, problems = _grid(path, given, None if over is None else list(over))
    _refuse([*problems, *_said(found, whole=not problems)])
    return found


def _grid(path: Path, given: Mapping[str, Any], over: list[str] | None) -> tuple[Grid, list[str]]:
    """The sweep over what is right, and what is wrong."""
    known, problems = parameters.read(path), list[str]()
    scalars: dict[str, list[Any]] = {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        try:
            if name in known and isinstance(value, list) and not _takes_list(known[name]):
                scalars[name] = _axis(name, value, known)
            else:
                values |= parameters.check({name: value}, known)
        except BadParameter as error:
            problems.append(str(error))
    held = {name: values.get(name, _default(p)) for name, p in known.items() if p.annotation and _takes_list(p)}
    every = {name: value for name, value in held.items() if isinstance(value, list) and value}
    wanted = list(every) if over is None else over
    problems += [f"over: {_no_axis(name, known, every)}" for name in wanted if name not in every and name not in scalars]
    lists = {name: every[name] for name in every if name in wanted}
    return Grid(path, {n: v for n, v in values.items() if n not in lists}, lists, scalars), problems


def _axis(name: str, values: list[Any], known: Mapping[str, Parameter]) -> list[Any]:
    """Values of a parameter that takes one at a time.

    Raises: BadParameter, also where they can be no axis.
    """
    if name in PLACES:
        raise BadParameter(f"parameter {name!r} says where things are: it has one value in a sweep, not {values!r}")
    if not values:
        raise BadParameter(f"parameter {name!r} has no value: give one or more, or leave it out")
    checked = [parameters.check({name: value}, known)[name] for value in values]
    parameters.check({name: checked}, {name: Parameter(name, "", "", "")})  # nothing twice
    return checked


def read_words(path: Path, given: Words) -> dict[str, Any]:
    """Values from the command line as `grid` takes them: each entry is a name and the words after it, see `parameters.parse`.

    Raises:
        BadParameter: all that is wrong, a line each.
    """
    known, problems = parameters.read(path), list[str]()
    values: dict[str, Any] = {}
    names = [name for name, *_ in given]
    for name, *words in given:
        try:
            if names.count(name) > 1:
                raise BadParameter(f"parameter {name!r} is given twice")
            values[name] = _value(name, words, known)
        except BadParameter as error:
            problems.append(str(error))
    if problems:
        found, more = _grid(path, values, None)
        _refuse(dict.fromkeys([*problems, *more, *_said(found, whole=False)]))
    return values


def _value(name: str, words: Sequence[str], known: Mapping[str, Parameter]) -> Any:
    """What words mean; several of a parameter that takes one, or a range of numbers, are a list of its values."""
    if name not in known or _takes_list(known[name]):
        return parameters.parse([[name, *words]], known)[name]
    spread = list(words)
    if parameters.type_of(known[name]) is int:
        spread = [str(number) for word in words for number in parameters.integers(word) or (word,)]
    each = [parameters.parse([[name, word]], known)[name] for word in spread]
    return each if len(each) > 1 else parameters.parse([[name, *spread]], known)[name]


def _said(grid: Grid, *, whole: bool) -> list[str]:
    """What the notebook says is wrong: of each value by itself, and if that is nothing of the `whole`."""
    if whole and all(_problem(grid, values) is None for values in grid.reports()):
        return []
    problems = [problem for values in _singles(grid) if (problem := _problem(grid, values))]
    if whole and not problems:
        problems = [problem for values in grid.reports() if (problem := _problem(grid, values))]
    return list(dict.fromkeys(problems))


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
    """Parameters with all defaults but one, which has one value."""
    for name, values in grid.scalars.items():
        yield from ({name: value} for value in values)
    for name, value in {**grid.lists, **grid.values}.items():
        yield from ({name: [one]} for one in value) if isinstance(value, list) and value else ({name: value},)


def read_file(path: Path, given: Words = ()) -> tuple[Path, dict[str, Any], list[str] | None]:
    """Notebook, values and axes of a sweep file: YAML with `notebook` (relative to the file), `parameters`, and perhaps `over`.

    Its values mean what they mean on the command line, where 0:5 stands for the five whole numbers from 0 on. `given`, words as
    `read_words` takes them, replace its own.

    Raises:
        BadParameter: it is not there, is no such file, or names what it cannot hold; or all that is wrong with its parameters.
    """
    try:
        import yaml
    except ImportError as error:
        raise BadParameter(f"sweep file {path} needs PyYAML: pip install pyyaml, or name its parameters with -p") from error
    try:
        text = path.read_text(encoding="utf-8")
        content, plain = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)  # as YAML types it, and as it is written
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise BadParameter(f"sweep file {path} cannot be read: {error}") from error
    _check_file(path, content)
    entries, over = content.get("parameters") or {}, content.get("over")
    target = Path(os.path.relpath((path.parent / content["notebook"]).resolve()))
    written = dict(zip(map(str, entries), (plain["parameters"] or {}).values(), strict=True)) if entries else {}
    own = [[str(name), *_words(written[str(name)], value)] for name, value in entries.items() if name not in {n for n, *_ in given}]
    return target, read_words(target, [*own, *given]), over


def _check_file(path: Path, content: Any) -> None:
    """Raises: BadParameter, for all that is wrong with what a sweep file has, its parameters aside."""
    if not isinstance(content, dict):
        raise BadParameter(f"sweep file {path} has no entries: write a line such as notebook: ../quickstart.ipynb")
    problems = [
        f"sweep file {path} has an entry {str(name)!r}{parameters.nearest(str(name), FIELDS)}: it takes {', '.join(FIELDS)}"
        for name in content
        if name not in FIELDS
    ]
    if not isinstance(content.get("notebook"), str):
        problems.append(f"sweep file {path} names no notebook: write a line such as notebook: ../quickstart.ipynb")
    if not isinstance(content.get("parameters") or {}, dict):
        problems.append(f"sweep file {path}: parameters is {content['parameters']!r}: it must be names with values, as seeds: 0:5")
    if not (content.get("over") is None or _is_names(content["over"])):
        problems.append(f"sweep file {path}: over is {content['over']!r}: it must be a list of parameters, as [strategies, seeds]")
    _refuse(problems)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _words(written: Any, value: Any) -> list[str]:
    """An entry of a sweep file as words: texts as they are written there, what is nested as one word."""
    if isinstance(written, str):
        return [written]
    return written if _is_names(written) and written else [json.dumps(value, default=str)]


def _takes_list(parameter: Parameter) -> bool:
    """Whether a list may be one value of it."""
    try:
        kind = parameters.type_of(parameter)
    except BadParameter:  # it is named where a value is given
        return False
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    return kind is None or any(one is list or get_origin(one) is list for one in kinds)


def _default(parameter: Parameter) -> Any:
    """As a value where it is a literal such as JSON has, else as written."""
    try:
        value = ast.literal_eval(parameter.default)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError):
        return parameter.default
    return value


def _no_axis(name: str, known: Mapping[str, Parameter], every: Mapping[str, Any]) -> str:
    if name in known:
        return f"{name!r} has a single value, or none: give it several, or leave it out"
    return f"there is no parameter {name!r}; lists are {', '.join(every) or 'none'}"


def _refuse(problems: Iterable[str]) -> None:
    """Raises: BadParameter, naming all of them, if there are any."""
    problems = list(problems)
    if len(problems) == 1:
        raise BadParameter(problems[0])
    if problems:
        raise BadParameter("\n".join([f"{len(problems)} problems, nothing was started:", *(f"- {problem}" for problem in problems)]))
