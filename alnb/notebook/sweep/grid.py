"""The cells of a sweep: which parameters are cut into single values, and everything that is wrong with the values."""

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

Words = Sequence[Sequence[str]]  # of the command line: each entry is a parameter's name and the words after it
FIELDS = ("notebook", "parameters", "over", "says")  # of a sweep file


@dataclass(frozen=True)
class Grid:
    """A sweep. Each axis is cut into single values; there is a cell for each combination. The other values are the same in all cells."""

    notebook: Path
    values: Mapping[str, Any]  # without the axes
    lists: Mapping[str, list[Any]]  # axes that the notebook takes as lists: a cell has one element, a report has all
    scalars: Mapping[str, list[Any]]  # axes of which the notebook takes one value: there is a report for each combination

    @cached_property
    def known(self) -> Mapping[str, Parameter]:
        """The parameters of the notebook."""
        return parameters.read(self.notebook)

    @property
    def root(self) -> Path:
        """The folder of the runs, with the cells in cells/: an absolute path, for workers that started in another folder."""
        return Path(self.values.get("runs") or store.workspace() / "runs").expanduser().absolute()

    def cells(self) -> list[Cell]:
        """A cell for each combination of values. The last axis varies fastest."""
        axes = {**self.scalars, **self.lists}
        return [self._cell(dict(zip(axes, point, strict=True))) for point in product(*axes.values())]

    def reports(self) -> list[dict[str, Any]]:
        """The parameters of each execution over the whole grid."""
        lists = {name: list(values) for name, values in self.lists.items()}
        points = product(*self.scalars.values())
        return [{**self.values, **lists, **dict(zip(self.scalars, point, strict=True))} for point in points]

    def _cell(self, point: Mapping[str, Any]) -> Cell:
        values = {**self.values, **{name: [value] if name in self.lists else value for name, value in point.items()}}
        experiment = {name: value for name, value in {**self._defaults, **values}.items() if name not in PLACES}
        changed = {name: value for name, value in experiment.items() if value != self._defaults[name]}
        words = re.sub("[^A-Za-z0-9.]+", "-", named(changed)).strip("-")[:80]
        key = "-".join(filter(None, (words, store.fingerprint(self.code, experiment)[:10])))
        return Cell(self.notebook.resolve(), values, point, self.root / "cells" / self.notebook.stem, key)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {name: _default(parameter) for name, parameter in self.known.items()}

    @cached_property
    def code(self) -> str:
        """Digest of the notebook's code, see `parameters.digest`."""
        return parameters.digest(self.notebook)


def grid(path: Path, values: Mapping[str, Any], over: Iterable[str] | None = None) -> Grid:
    """The sweep of the notebook at `path`. Where the notebook takes a single value, a list of values is an axis.

    The notebook's own cells tagged `check` look at the values.

    Args:
        over: the list parameters to cut into cells; None: all that are not empty.
    Raises:
        BadParameter: all that is wrong, one problem a line.
    """
    made, problems = _grid(path, values, None if over is None else list(over))
    _refuse([*problems, *_complaints(made, together=not problems)])
    return made


def _grid(path: Path, values: Mapping[str, Any], over: list[str] | None) -> tuple[Grid, list[str]]:
    """The sweep over the values that are right, and what is wrong with the others."""
    known, problems = parameters.read(path), list[str]()
    scalars: dict[str, list[Any]] = {}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        try:
            if name in known and isinstance(value, list) and not _takes_list(known[name]):
                scalars[name] = _axis(name, value, known)
            else:
                checked |= parameters.check({name: value}, known)
        except BadParameter as error:
            problems.append(str(error))
    present = {name: checked.get(name, _default(p)) for name, p in known.items() if p.annotation and _takes_list(p)}
    cuttable = {name: value for name, value in present.items() if isinstance(value, list) and value}
    wanted = list(cuttable) if over is None else over
    for name in wanted:
        if name not in cuttable and name not in scalars:
            reason = "it has only one value, so it cannot be swept" if name in known else f"there is no such list: {', '.join(cuttable)}"
            problems.append(f"over {name!r}: {reason}")
    lists = {name: cuttable[name] for name in cuttable if name in wanted}
    return Grid(path, {name: value for name, value in checked.items() if name not in lists}, lists, scalars), problems


def _axis(name: str, values: list[Any], known: Mapping[str, Parameter]) -> list[Any]:
    """The checked values of a parameter of which the notebook takes one.

    Raises: BadParameter, also if the parameter cannot be swept.
    """
    if name in PLACES:
        raise BadParameter(f"parameter {name!r} says where things are: it has one value in a sweep, not {values!r}")
    if not values:
        raise BadParameter(f"parameter {name!r} has no value: give one or more, or leave it out")
    checked = [parameters.check({name: value}, known)[name] for value in values]
    parameters.check({name: checked}, {name: Parameter(name, "", "", "")})  # nothing twice
    return checked


def read_words(path: Path, words: Words) -> dict[str, Any]:
    """Values from the command line, for `grid`. They mean what they mean to `parameters.parse`.

    Raises:
        BadParameter: all that is wrong, one problem a line.
    """
    known, problems = parameters.read(path), list[str]()
    values: dict[str, Any] = {}
    names = [name for name, *_ in words]
    for name, *rest in words:
        try:
            if names.count(name) > 1:
                raise BadParameter(f"parameter {name!r} is given twice")
            values[name] = _value(name, rest, known)
        except BadParameter as error:
            problems.append(str(error))
    if problems:
        made, more = _grid(path, values, None)
        _refuse(dict.fromkeys([*problems, *more, *_complaints(made, together=False)]))
    return values


def _value(name: str, words: Sequence[str], known: Mapping[str, Parameter]) -> Any:
    """What words mean. Where the notebook takes a single value, several words or a range of numbers are a list of values."""
    if name not in known or _takes_list(known[name]):
        return parameters.parse([[name, *words]], known)[name]
    if parameters.type_of(known[name]) is int:
        words = [str(number) for word in words for number in parameters.integers(word) or (word,)]
    values = [parameters.parse([[name, word]], known)[name] for word in words]
    return values if len(values) > 1 else parameters.parse([[name, *words]], known)[name]


# ---- what the notebook itself says --------------------------------------------------------------------------------------------


def _complaints(grid: Grid, *, together: bool) -> list[str]:
    """What the notebook's `check` cells say: about each value alone; if that is nothing, and if asked for, about all `together`."""
    if together and all(_complaint(grid, values) is None for values in grid.reports()):
        return []
    problems = [problem for values in _single_values(grid) if (problem := _complaint(grid, values))]
    if together and not problems:
        problems = [problem for values in grid.reports() if (problem := _complaint(grid, values))]
    return list(dict.fromkeys(problems))


def _complaint(grid: Grid, values: Mapping[str, Any]) -> str | None:
    try:
        kernel_free.examine(grid.notebook, values)
    except NotebookFailed as error:
        is_part = any(values.get(name) != every for name, every in grid.lists.items())
        return None if error.kind == "NothingToRun" and is_part else error.reason  # a part may hold no combination
    return None


def _single_values(grid: Grid) -> Iterator[dict[str, Any]]:
    """Parameters that differ from the defaults in one value."""
    for name, values in grid.scalars.items():
        yield from ({name: value} for value in values)
    for name, value in {**grid.lists, **grid.values}.items():
        yield from ({name: [item]} for item in value) if isinstance(value, list) and value else ({name: value},)


# ---- sweep files --------------------------------------------------------------------------------------------------------------


def read_file(path: Path, words: Words = ()) -> tuple[Path, dict[str, Any], list[str] | None]:
    """Notebook, values and axes of a sweep file: YAML with `notebook` (relative to the file), `parameters` and, if wanted, `over`.

    Values mean what they mean on the command line: 0:5 stands for 0, 1, 2, 3, 4. `words` replace values of the file.

    Raises:
        BadParameter: the file is missing or malformed; or all that is wrong with its parameters.
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
    entries = content.get("parameters") or {}
    written = dict(zip(map(str, entries), (plain["parameters"] or {}).values(), strict=True)) if entries else {}
    replaced = {name for name, *_ in words}
    unchanged = [[str(name), *_words(written[str(name)], value)] for name, value in entries.items() if name not in replaced]
    target = Path(os.path.relpath((path.parent / content["notebook"]).resolve()))
    return target, read_words(target, [*unchanged, *words]), content.get("over")


def _check_file(path: Path, content: Any) -> None:
    """Raises: BadParameter, with all that is wrong with the entries of a sweep file."""
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
        problems.append(f"sweep file {path}: parameters is {content['parameters']!r}: it must be names with values, such as seeds: 0:5")
    if not (content.get("over") is None or _is_names(content["over"])):
        problems.append(f"sweep file {path}: over is {content['over']!r}: it must be a list of parameters, such as [strategies, seeds]")
    _refuse(problems)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _words(written: Any, value: Any) -> list[str]:
    """A value of a sweep file as words: texts as they are written there, nested values as one word."""
    if isinstance(written, str):
        return [written]
    return written if _is_names(written) and written else [json.dumps(value, default=str)]


# ---- helpers ------------------------------------------------------------------------------------------------------------------


def _takes_list(parameter: Parameter) -> bool:
    """Whether a list may be one value of it."""
    try:
        kind = parameters.type_of(parameter)
    except BadParameter:  # reported where it gets a value
        return False
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    return kind is None or any(member is list or get_origin(member) is list for member in kinds)


def _default(parameter: Parameter) -> Any:
    """As a value if it is a literal that JSON has, otherwise as written."""
    try:
        value = ast.literal_eval(parameter.default)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError):
        return parameter.default
    return value


def _refuse(problems: Iterable[str]) -> None:
    """Raises: BadParameter, with all problems, if there are any."""
    problems = list(problems)
    if len(problems) == 1:
        raise BadParameter(problems[0])
    if problems:
        raise BadParameter("\n".join([f"{len(problems)} problems, nothing was started:", *(f"- {problem}" for problem in problems)]))
