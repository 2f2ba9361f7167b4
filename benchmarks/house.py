"""The structure of the package, in numbers beside their bars.

``python -m benchmarks.house`` (`make house`) writes them into `alnb/README.md`; with ``--check`` it writes nothing.
The exit status is 1 where a bar is missed. Standard library only.
"""

import ast
import io
import keyword
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
ROOMS = ("store", "data", "learn", "acquire", "loop", "report", "notebook", "widgets", "papers")  # from the ground up
CORE = ROOMS[:5]
STRATEGY = ("acquire/query.py", "acquire/__init__.py", "acquire/scores.py")  # what one reads to add a strategy
CYCLE = (  # and to follow a cycle from the pool to its record
    *STRATEGY, "loop/experiment.py", "loop/cycles.py", "loop/oracle.py", "learn/train.py", "learn/nets.py", "learn/task.py",
    "store/streams.py",
)  # fmt: skip
EXCEPTIONS: dict[str, str] = {}  # "acquire/vaal.py:fit": the reason why this function may be longer or take more; at most five
PACKAGE = 17_000  # lines; 14,500 at first, 15,200 with replications, families of tests and baselines by source; then 20 strategies
RUN = 6  # lines
# At commit 51ce4dc: old=$(mktemp -d); git archive 51ce4dc | tar -x -C $old
# python -c "import pathlib, sys; from benchmarks.house import duplicates; print(duplicates(pathlib.Path(sys.argv[1])))" $old
DUPLICATES_BEFORE = 6


class Row(NamedTuple):
    """A figure beside its bar."""

    name: str
    value: int
    bar: int
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is at most its bar."""
        return self.value <= self.bar


class Function(NamedTuple):
    """A function's place, its lines without the docstring, and its parameters without self and cls."""

    place: str
    lines: int
    parameters: int


def sources(root: Path, *folders: str) -> list[Path]:
    """All Python files below `folders` of `root`, in order."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def lines(path: Path) -> int:
    """Lines of a file; 0 where there is none."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def span(node: ast.stmt) -> range:
    """The line numbers of a statement."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def docstring(node: ast.AST) -> ast.Expr | None:
    """The docstring's statement of a module, class or function."""
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    return first if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str) else None


def functions(path: Path, name: str) -> Iterator[Function]:
    """Every function and method of a file, those inside others too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text, names = docstring(node), node.args
            length = len(span(node)) - (len(span(text)) if text else 0)
            every = [*names.posonlyargs, *names.args, *names.kwonlyargs, *filter(None, (names.vararg, names.kwarg))]
            yield Function(f"{name}:{node.name}", length, sum(one.arg not in ("self", "cls") for one in every))


def shapes(path: Path) -> list[list[str]]:
    """Lines of code as tokens, each number and text as `0`; without imports, comments, docstrings and lines that name nothing.

    Declarations do not count either: six fields of a dataclass have the shape of six others. They are fields and module constants.
    """
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        declared = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        statements = [one for one in declared if isinstance(one, ast.Assign | ast.AnnAssign)]
        statements += [node] if isinstance(node, ast.Import | ast.ImportFrom) else filter(None, [docstring(node)])
        for statement in statements:
            left_out |= set(span(statement))
    rows: dict[int, list[str]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string.strip() and token.type != tokenize.COMMENT and token.start[0] not in left_out:
            rows[token.start[0]].append("0" if token.type in (tokenize.NUMBER, tokenize.STRING) else token.string)
    return [row for _, row in sorted(rows.items()) if any(token.isidentifier() for token in row)]


def renamed(rows: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """`rows` with names numbered in order of appearance: equal for two runs that differ in names, numbers and texts alone."""
    names: dict[str, str] = {}
    named = {token for row in rows for token in row if token.isidentifier() and not keyword.iskeyword(token)}
    return tuple(tuple(names.setdefault(token, f"n{len(names)}") if token in named else token for token in row) for row in rows)


def duplicates(root: Path) -> int:
    """Pairs of places with a run of `RUN` lines or more of the same shape, over alnb/, tests/ and benchmarks/; a longer run counts once."""
    windows: dict[tuple[tuple[str, ...], ...], list[tuple[int, int]]] = defaultdict(list)
    for number, path in enumerate(sources(root, "alnb", "tests", "benchmarks")):
        rows = shapes(path)
        for start in range(len(rows) - RUN + 1):
            windows[renamed(rows[start : start + RUN])].append((number, start))
    pairs = {pair for places in windows.values() for pair in combinations(places, 2)}
    apart = {(one, two) for one, two in pairs if one[0] != two[0] or two[1] - one[1] >= RUN}
    return sum(((one[0], one[1] - 1), (two[0], two[1] - 1)) not in apart for one, two in apart)


def measure(root: Path) -> list[Row]:
    """Every figure of the project in `root`."""
    package = root / "alnb"
    length = {str(path.relative_to(package)): lines(path) for path in sources(root, "alnb")}
    every = [one for path in sources(root, "alnb") for one in functions(path, str(path.relative_to(package)))]
    bound = [one for one in every if one.place not in EXCEPTIONS]
    long, wide = [one for one in bound if one.lines > 40], [one for one in bound if one.parameters > 8]
    large = {name: count for name, count in length.items() if count > 400}
    top = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    missing = [name for name in CYCLE if name not in length]
    return [
        Row("lines of the package", sum(length.values()), PACKAGE),
        Row("lines of the core (store to loop)", sum(count for name, count in length.items() if name.split("/")[0] in CORE), 6_500),
        Row("files over 400 lines", len(large), 0, ", ".join(f"{name} {count}" for name, count in large.items())),
        Row("functions over 40 lines, docstring aside", len(long), 0, ", ".join(f"{one.place} {one.lines}" for one in long)),
        Row("functions of over 8 parameters", len(wide), 0, ", ".join(f"{one.place} {one.parameters}" for one in wide)),
        Row("exceptions to these two", len(EXCEPTIONS), 5, "; ".join(f"{place}: {reason}" for place, reason in EXCEPTIONS.items())),
        Row("modules at the top of `alnb/`", len(top), 11),
        Row("lines to read to add a strategy", sum(length.get(name, 0) for name in STRATEGY), 300, ", ".join(STRATEGY)),
        Row("lines to read to follow a cycle", sum(length.get(name, 0) for name in CYCLE), 1_300, ", ".join(CYCLE[3:])),
        Row("files of these two that do not exist", len(missing), 0, ", ".join(missing)),
        Row(f"duplicated runs of {RUN} lines or more", duplicates(root), DUPLICATES_BEFORE // 3, f"before: {DUPLICATES_BEFORE}"),
        Row("bytes of README.md", (root / "README.md").stat().st_size, 8_192),
    ]


def table(root: Path, rows: list[Row]) -> str:
    """Two tables in Markdown: figures beside bars, and the lines of each room."""
    text = ["| figure | value | at most | | |", "|---|--:|--:|---|---|"]
    text += [f"| {row.name} | {row.value:,} | {row.bar:,} | {'met' if row.met else '**missed**'} | {row.detail} |" for row in rows]
    text += ["", "| room | files | lines |", "|---|--:|--:|"]
    for room in reversed(ROOMS):
        files = sources(root, f"alnb/{room}")
        text.append(f"| `{room}` | {len(files)} | {sum(map(lines, files)):,} |")
    return "\n".join(text)


def main(arguments: list[str], root: Path = PROJECT) -> int:
    """Print the figures, write them unless ``--check`` is given; returns 1 where a bar is missed."""
    rows = measure(root)
    for row in rows:
        print(f"{row.value:7,} <= {row.bar:<7,}{'met ' if row.met else 'MISS'}  {row.name}{': ' + row.detail if row.detail else ''}")
    if "--check" not in arguments:
        readme = root / "alnb" / "README.md"
        written = re.sub(
            r"(?s)(<!-- house -->\n).*?(?=<!-- /house -->)", lambda found: f"{found[1]}{table(root, rows)}\n", readme.read_text()
        )
        readme.write_text(written)
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
