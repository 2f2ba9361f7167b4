"""``alnb sweep``: the command line of `engine.sweep`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from alnb.notebook import BadParameter
from alnb.notebook.sweep import table
from alnb.notebook.sweep.cell import BUSY
from alnb.notebook.sweep.engine import Sweep, Workers, asked_to_end, sweep
from alnb.notebook.sweep.grid import grid, read_file, read_words

FAILED, LEFT = 1, 75  # exit statuses; 75 is what sysexits.h calls a temporary failure: try again
Read = tuple[Path, dict[str, Any], list[str] | None]  # notebook, values, axes
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EPILOG = """\
exit status: 0 all is done, 1 cells failed, 2 the call was wrong, 75 something is left to do (--time-limit), 130 interrupted.
The same command again does only what is missing."""


def add(commands: Any, parameter: dict[str, Any]) -> None:
    """The sub-command, to argparse's `commands`; `parameter` describes its option -p."""
    about = "execute a notebook over a grid of parameters, in parallel, then once over the whole grid"
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("sweep", help=about, description=about, epilog=EPILOG, formatter_class=raw)
    parser.add_argument(
        "targets", type=Path, nargs="+", metavar="NOTEBOOK|FILE.yaml", help="notebooks, or sweep files; one after the other"
    )
    parser.add_argument("-p", **parameter)
    parser.add_argument("--scale", help="the same as -p scale SCALE")
    parser.add_argument("--over", nargs="+", metavar="NAME", help="the list parameters to cut into cells (default: all)")
    parser.add_argument(
        "--workers", type=int, help="cells at once on this machine (default: one for each GPU, else for each core, at most 8)"
    )
    parser.add_argument("--threads", type=int, help="of each cell (default: its share of the cores)")
    parser.add_argument(
        "--cluster",
        metavar="WHERE",
        help="a Dask scheduler: tcp://HOST:PORT, its scheduler file (.json), or a file that starts one (.yaml)",
    )
    parser.add_argument("--kernel-free", action="store_true", help="without Jupyter; so it is anyway where papermill is not installed")
    parser.add_argument(
        "--time-limit", metavar="TIME", type=seconds, help="as 9m or 1h30m: then stop at a checkpoint, and say what is left"
    )
    parser.add_argument("--retry", action="store_true", help="try cells again that failed")
    parser.add_argument("--dry-run", action="store_true", help="show the grid, what of it is done, and how long the rest may take")
    parser.set_defaults(do=run)


def seconds(text: str) -> float:
    """A length of time such as 90s, 9m or 1h30m.

    Raises:
        argparse.ArgumentTypeError: it is none, or not positive.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text or not any(float(number) for number, _ in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time: write it as 90s, 9m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    end = None if options.time_limit is None else time.monotonic() + options.time_limit
    words = [*options.parameters, *([["scale", options.scale]] if options.scale else [])]
    sweeps = _all_read(options.targets, words, options.over)
    if options.cluster and options.workers:
        raise BadParameter("--workers is how many cells run on this machine at once: with --cluster, start so many workers there")
    with asked_to_end(), _crew(options) as crew:  # in this order: what was launched is ended by SIGTERM too
        return _swept(options, sweeps, crew, end)


def _swept(options: argparse.Namespace, sweeps: Sequence[Read], crew: Workers | None, end: float | None) -> int:
    """Do one sweep after the other; returns the worst exit status."""
    worst = 0
    for path, values, over in sweeps:
        if len(sweeps) > 1:
            print(f"== {path}", flush=True)
        left = None if end is None else max(0.0, end - time.monotonic())
        executor: Any = nullcontext(crew) if options.cluster else None
        done = sweep(path, values, over=over, executor=executor, time_limit=left, **_options(options))
        status = 0 if options.dry_run else conclude(done)
        worst = status if worst == 0 or status == FAILED else worst
    return worst


def _options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("workers", "threads", "retry", "dry_run")
    return {**{name: getattr(options, name) for name in names}, "kernel_free": options.kernel_free or None}


def _crew(options: argparse.Namespace) -> AbstractContextManager[Workers | None]:
    """The workers of a cluster, for all sweeps; None for those of this machine, which each sweep has for itself."""
    if options.cluster is None or options.dry_run:
        return nullcontext()
    from alnb.notebook.sweep import cluster

    return cluster.connect(options.cluster, threads=options.threads, patience=options.time_limit)


def _all_read(targets: Iterable[Path], words: list[list[str]], over: list[str] | None) -> list[Read]:
    """Raises: BadParameter, for all that is wrong with any of the targets, before anything is begun."""
    found, problems = list[Read](), list[str]()
    for target in targets:
        try:
            found.append(_read(target, words, over))
        except BadParameter as error:
            problems.append(str(error))
    if problems:
        raise BadParameter("\n".join(problems))
    return found


def _read(target: Path, words: list[list[str]], over: list[str] | None) -> Read:
    """Notebook, values and axes, when `grid` has found nothing wrong with them."""
    file = target.suffix in (".yaml", ".yml")
    try:
        path, values, own = read_file(target, words) if file else (target, read_words(target, words), None)
        grid(path, values, over or own)
    except BadParameter as error:
        raise error if str(target) in str(error) else BadParameter(f"{target}: {error}") from error
    return path, values, over or own


def conclude(done: Sweep) -> int:
    """Print what came of a sweep; returns the exit status."""
    print(f"\n{done.grid.notebook}: {table.number(len(done.cells))}: {table.counted(done.statuses.values())}")
    for cell in done.failed[: table.MOST_ROWS]:
        status = done.statuses[cell.key]
        print(f"  {cell.name}: {status.kind}: {status.reason}\n    what it printed: {cell.folder / 'log.txt'}")
    for cell in (cell for cell in done.left if done.statuses[cell.key].state == BUSY):
        print(f"  {cell.name}: {done.statuses[cell.key].reason}")
    for report in done.reports:
        print(f"executed notebook: {report}")
    if done.failed:
        print(f"{table.number(len(done.failed))} failed; when the cause is mended, the same command with --retry goes on", file=sys.stderr)
    if done.left:
        left = table.time_left(done.left_seconds)
        print(f"{table.number(len(done.left))} left: {left}; the same command goes on from there", file=sys.stderr)
    for problem in done.reports_failed:
        print(f"over the whole grid: {problem}", file=sys.stderr)
    if done.finished and done.why_no_report:
        print(f"not executed over the whole grid: {done.why_no_report}", file=sys.stderr)
    if done.failed or done.reports_failed:
        return FAILED
    return LEFT if done.left or done.late else 0
