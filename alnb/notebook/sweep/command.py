"""``alnb sweep``: the command line of `engine.sweep`."""

import argparse
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from alnb.notebook.parameters import BadParameter
from alnb.notebook.sweep import cluster, table
from alnb.notebook.sweep.cell import BUSY
from alnb.notebook.sweep.engine import TIME_IS_UP, Sweep, asked_to_end, sweep
from alnb.notebook.sweep.grid import grid, read_file, read_words

FAILED, LEFT = 1, 75  # exit statuses; sysexits.h calls 75 a temporary failure: try again
Target = tuple[Path, dict[str, Any], list[str] | None]  # notebook, values, axes
TIME = re.compile(r"(\d+(\.\d+)?[smhd])+")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ABOUT = "execute a notebook over a grid of parameters, in parallel, then once over the whole grid"
EPILOG = """\
exit status: 0 all is done, 1 cells failed, 2 the call was wrong, 75 something is left to do, 130 interrupted.
The same command again does only what is missing."""


def add(commands: Any, execution: argparse.ArgumentParser) -> None:
    """Add the command to argparse's `commands`. `execution` has the options of everything that executes notebooks."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("sweep", parents=[execution], help=ABOUT, description=ABOUT, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("targets", type=Path, nargs="+", metavar="NOTEBOOK|FILE.yaml", help="notebooks, or sweep files, in this order")
    described: dict[str, dict[str, Any]] = {
        "--over": {"nargs": "+", "metavar": "NAME", "help": "the list parameters to cut into cells (default: all)"},
        "--workers": {
            "type": int,
            "help": "cells at once here (default: --per-gpu of each GPU, else one for each core, at most 8)",
        },
        "--per-gpu": {"type": int, "default": 1, "metavar": "N", "help": "cells at once on each GPU (default: 1); nothing without a GPU"},
        "--threads": {"type": int, "help": "of each cell (default: its share of the cores; 1 with --scheduler)"},
        "--scheduler": {"metavar": "ADDRESS", "help": "a Dask scheduler that runs already: tcp://HOST:PORT, or its scheduler file (.json)"},
        "--time-limit": {"metavar": "TIME", "type": seconds, "help": "such as 9m or 1h30m: then stop at a checkpoint"},
        "--retry": {"action": "store_true", "help": "execute failed cells again"},
        "--dry-run": {"action": "store_true", "help": "show the grid, what is done, and how long the rest may take"},
    }
    for name, options in described.items():
        parser.add_argument(name, **options)
    parser.set_defaults(do=run)


def seconds(text: str) -> float:
    """A length of time such as 90s, 9m or 1h30m. Raises: argparse.ArgumentTypeError if it is not one, or not positive."""
    total = sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text)) if TIME.fullmatch(text) else 0.0
    if not total:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time: write it as 90s, 9m or 1h30m")
    return total


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    end = None if options.time_limit is None else time.monotonic() + options.time_limit
    targets = [_read(target, options.parameters, options.over) for target in options.targets]
    if options.scheduler and (options.workers or options.per_gpu > 1):
        raise BadParameter("--workers and --per-gpu are for this machine: with --scheduler, start as many workers there")
    connected = cluster.connect(options.scheduler) if options.scheduler and not options.dry_run else nullcontext()
    worst = 0
    with asked_to_end(), connected as executor:
        for path, values, over in targets:
            if len(targets) > 1:
                print(f"== {path}", flush=True)
            chosen = {name: getattr(options, name) for name in ("workers", "per_gpu", "threads", "retry", "dry_run")}
            chosen |= {"kernel_free": options.kernel_free or None, "time_limit": end and max(0.0, end - time.monotonic())}
            result = sweep(path, values, over=over, executor=executor, **chosen)
            status = 0 if options.dry_run else conclude(result)
            worst = status if worst == 0 or status == FAILED else worst
    return worst


def _read(target: Path, words: list[list[str]], over: list[str] | None) -> Target:
    """Notebook, values and axes, checked by `grid`."""
    try:
        is_file = target.suffix in (".yaml", ".yml")
        path, values, axes = read_file(target, words) if is_file else (target, read_words(target, words), None)
        grid(path, values, over or axes)
    except BadParameter as error:
        raise BadParameter(str(error) if str(target) in str(error) else f"{target}: {error}") from error
    return path, values, over or axes


def conclude(result: Sweep) -> int:
    """Print the result of a sweep; returns the exit status."""
    print(f"\n{result.grid.notebook}: {table.number(len(result.cells))}: {table.counted(result.statuses.values())}")
    for cell in result.failed[: table.MOST_ROWS]:
        status = result.statuses[cell.key]
        print(f"  {cell.name}: {status.kind}: {status.reason}\n    what it printed: {cell.folder / 'log.txt'}")
    for cell in result.left:
        if result.statuses[cell.key].state == BUSY:
            print(f"  {cell.name}: {result.statuses[cell.key].reason}")
    for report in result.reports:
        print(f"executed notebook: {report}")
    if result.failed:
        _warn(f"{table.number(len(result.failed))} failed: fix the cause, then rerun with --retry")
    if result.left:
        _warn(f"{table.number(len(result.left))} left: {table.time_left(result.estimate())}; the same command continues from there")
    for problem in result.reports_failed:
        _warn(f"over the whole grid: {problem}")
    if result.finished and result.why_no_report:
        _warn(f"not executed over the whole grid: {result.why_no_report}")
    if result.failed or result.reports_failed:
        return FAILED
    return LEFT if result.left or result.why_no_report == TIME_IS_UP else 0


def _warn(line: str) -> None:
    print(line, file=sys.stderr)
