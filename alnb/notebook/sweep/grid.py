"""The cells of a sweep: which parameters are cut into single values, and what is wrong with the values."""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from alnb import store
from alnb.data.files import LABELS
from alnb.notebook import kernel_free, parameters
from alnb.notebook.execute import NotebookFailed, runs_folder
from alnb.notebook.parameters import LOCATIONS, BadParameter, Parameter
from alnb.notebook.sweep.cell import Cell, named

Words = Sequence[Sequence[Any]]  # each entry is a parameter's name and the words after it; from a file, also lists and mappings of texts
ENTRIES = {  # of a sweep file
    "notebook": Parameter("notebook", "str", "../quickstart.ipynb", ""),
    "parameters": Parameter("parameters", "dict | None", "{seeds: 0:5}", ""),
    "over": Parameter("over", "list[str] | None", "[strategies, seeds]", ""),
    "says": Parameter("says", "str | None", "what it is for", ""),
}


@dataclass(frozen=True)
class Grid:
    """A sweep. Each axis is cut into single values; there is a cell for each combination. The other values are the same in all cells."""

    notebook: Path
    values: Mapping[str, Any]  # without the axes
    lists: Mapping[str, list[Any]]  # axes that the notebook takes as lists: a cell has one element, a report has all
    scalars: Mapping[str, list[Any]]  # axes of which the notebook takes one value: there is a report for each combination

    @property
    def root(self) -> Path:
        """The folder of the runs, with the cells in cells/."""
        return runs_folder(self.values)

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
        experiment = {name: value for name, value in {**self._defaults, **values}.items() if name not in LOCATIONS}
        changed = {name: value for name, value in experiment.items() if value != self._defaults[name]}
        words = re.sub("[^A-Za-z0-9.]+", "-", named(changed)).strip("-")[:80]
        files = {word: self._files[word] for value in experiment.values() for word in _texts(value) if word in self._files}
        key = "-".join(filter(None, (words, store.fingerprint(self.code, experiment, *([files] if files else []))[:10])))
        return Cell(self.notebook.resolve(), values, point, self.root / "cells" / self.notebook.stem, key)

    @cached_property
    def _files(self) -> dict[str, str]:
        """The digest of each path among the values: a folder of images is more than its name."""
        values = {**self._defaults, **self.values, **self.lists, **self.scalars}
        words = {word for name, value in values.items() if name not in LOCATIONS for word in _texts(value)}
        paths = {word: os.path.expanduser(word) for word in words}
        return {word: _content(path, self.root) for word, path in paths.items() if os.path.exists(path)}

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {name: _default(parameter) for name, parameter in parameters.read(self.notebook).items()}

    @cached_property
    def code(self) -> str:
        """Digest of the notebook's code, see `parameters.digest`."""
        return parameters.digest(self.notebook)


def _texts(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _content(path: str, runs: Path) -> str:
    """Digest of the names, sizes and times of change of the files at `path`, without hidden ones, labels and `runs`. Links are followed."""
    digest, seen = hashlib.sha256(), {os.path.realpath(runs)}
    for where, below, names in os.walk(path, followlinks=True) if os.path.isdir(path) else [(".", [], [path])]:
        real = os.path.realpath(where)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith(".") and name != LABELS)
        for name in sorted(names) if real not in seen else ():
            with suppress(OSError):  # a link that leads nowhere
                state = os.stat(os.path.join(where, name))
                text = f"{os.path.relpath(where, path)}/{name} {state.st_size} {state.st_mtime_ns}\n"
                digest.update(b"" if name.startswith(".") else os.fsencode(text))
        seen.add(real)
    return digest.hexdigest()


def grid(path: Path, values: Mapping[str, Any], over: Iterable[str] | None = None) -> Grid:
    """The sweep of the notebook at `path`. Where the notebook takes a single value, a list of values is an axis.

    The notebook's own cells tagged `check` look at the values.

    Args:
        over: the list parameters to cut into cells; None: all that are not empty.
    Raises:
        BadParameter: a value is wrong, or cannot be swept.
    """
    known, values = parameters.read(path), {name: parameters.plain(value) for name, value in values.items()}
    scalars = {name: value for name, value in values.items() if isinstance(value, list) and name in known and not _takes_list(known[name])}
    checked = parameters.check({name: value for name, value in values.items() if name not in scalars}, known)
    scalars = {name: _axis(name, value, known) for name, value in scalars.items()}
    present = {name: checked.get(name, _default(p)) for name, p in known.items() if p.annotation and _takes_list(p)}
    lists = {name: value for name, value in present.items() if isinstance(value, list) and value}
    if over is not None:
        over = list(over)
        for name in over:
            if name not in lists and name not in scalars:
                reason = "it has only one value, so it cannot be swept" if name in known else f"there is no such list: {', '.join(lists)}"
                raise BadParameter(f"over {name!r}: {reason}")
        lists = {name: value for name, value in lists.items() if name in over}
    made = Grid(path, {name: value for name, value in checked.items() if name not in lists}, lists, scalars)
    for report in made.reports():
        try:
            kernel_free.examine(path, report)
        except NotebookFailed as error:
            raise BadParameter(error.reason) from error
    return made


def _axis(name: str, values: list[Any], known: Mapping[str, Parameter]) -> list[Any]:
    """The checked values of a parameter of which the notebook takes one.

    Raises: BadParameter, also if the parameter cannot be swept.
    """
    if name in LOCATIONS:
        raise BadParameter(f"parameter {name!r} says where things are: it has one value in a sweep, not {values!r}")
    if not values:
        raise BadParameter(f"parameter {name!r} has no value: give one or more, or leave it out")
    checked = [parameters.check({name: value}, known)[name] for value in values]
    parameters.check({name: checked}, {name: Parameter(name, "", "", "")})  # nothing twice
    return checked


def read_words(path: Path, words: Words) -> dict[str, Any]:
    """Values from the command line, for `grid`. They mean what they mean to `parameters.parse`.

    But where the notebook takes a single value, several words or a range of numbers are a list of values.
    """
    known, values = parameters.read(path), dict[str, Any]()
    for name, *rest in words:
        if name in values:
            raise BadParameter(f"parameter {name!r} is given twice: give it once, with all its values")
        values[name] = _value(name, rest, known)
    return values


def _value(name: str, words: Sequence[str], known: Mapping[str, Parameter]) -> Any:
    if name in known and not _takes_list(known[name]):
        kind = parameters.type_of(known[name])
        if int in (kind, *get_args(kind)):
            words = [str(number) for word in words for number in parameters.integers(word) or (word,)]
        if len(words) > 1:
            return [parameters.parse([[name, word]], known)[name] for word in words]
    return parameters.parse([[name, *words]], known)[name]


def read_file(path: Path, words: Words = ()) -> tuple[Path, dict[str, Any], list[str] | None]:
    """Notebook, values and axes of a sweep file: YAML with the entries `ENTRIES`; `notebook` is relative to the file.

    Values mean what they mean on the command line: 0:5 stands for 0, 1, 2, 3, 4. `words` replace values of the file.

    Raises:
        BadParameter: the file is missing or malformed, or a parameter is wrong.
    """
    content = _load(path)
    replaced = {name for name, *_ in words}
    unchanged = [[name, *_words(written)] for name, written in (content.get("parameters") or {}).items() if name not in replaced]
    target = Path(os.path.relpath((path.parent / content["notebook"]).resolve()))
    return target, read_words(target, [*unchanged, *words]), content.get("over")


def _load(path: Path) -> dict[str, Any]:
    """The checked entries of a sweep file. Values of parameters are texts, and lists and mappings of them, as they are written."""
    try:
        import yaml
    except ImportError as error:
        raise BadParameter(f"sweep file {path} needs PyYAML: pip install pyyaml, or name its parameters with -p") from error

    class Loader(yaml.BaseLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.peek_event().start_mark.line + 1} has a * for what stands elsewhere: write it out")
            return super().compose_node(parent, index)

        def construct_scalar(self, node: Any) -> str:
            text = str(super().construct_scalar(node))
            return parameters.Quoted(text) if node.style in ("'", '"') else text

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            names = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
            for k, name in enumerate(names):
                if name in names[:k]:
                    lines = " and ".join(str(node.value[j][0].start_mark.line + 1) for j in (names.index(name), k))
                    raise ValueError(f"{name!r} stands in lines {lines}: write it once")
            return {str(key): value for key, value in super().construct_mapping(node, deep=True).items()}

    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise BadParameter(f"sweep file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadParameter(f"sweep file {path} has no entries: write a line such as notebook: ../quickstart.ipynb")
    try:
        content = parameters.check({name: None if value == "" else value for name, value in content.items()}, ENTRIES)
    except BadParameter as error:
        raise BadParameter(f"sweep file {path}: {error}") from error
    if "notebook" not in content:
        raise BadParameter(f"sweep file {path} names no notebook: write a line such as notebook: ../quickstart.ipynb")
    return content


def _words(written: Any) -> list[Any]:
    """A value of a sweep file as words: a flat list as several, anything else as one."""
    return written if isinstance(written, list) and written and all(isinstance(item, str) for item in written) else [written]


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
