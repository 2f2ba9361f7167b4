"""The command `alnb`, also as ``python -m alnb``."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alnb.notebook.sweep import command

TARGETS = (".ipynb", ".yaml", ".yml")  # what a command executes


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status: 0 done, 1 failed, 2 the call was wrong, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to stop
    rest, entries = _split(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(rest)
    if entries and ("parameters" not in options or [] in entries):
        parser.error("-p belongs to run and sweep: write -p NAME VALUE")
    try:
        if entries:
            options.parameters += entries
        status: int = options.do(options)
        return status
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # else it prints the error of the cell that was interrupted
        print("\ninterrupted: what is complete is kept; the same command continues from there", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ALNB_TRACEBACK") == "1":
            raise
        print(f"alnb: {error}", file=sys.stderr)
        return 2 if type(error).__name__ == "BadParameter" else 1


def _split(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The arguments without those of each -p, and these: a name, and words up to the next option. A word such as -1e-3 is none.

    argparse takes such a word for an option, and the words before a NOTEBOOK for its own.
    """
    rest, entries, inside = list[str](), list[list[str]](), False
    for word in arguments:
        inside = word == "-p" or (inside and not word.startswith("--") and word not in ("-o", "-h"))
        if word == "-p":
            entries.append([])
        else:
            (entries[-1] if inside else rest).append(word)
    if entries and not any(Path(word).suffix in TARGETS for word in rest):
        end = len(rest)
        while Path("".join(entries[-1][-1:])).suffix in TARGETS:
            rest.insert(end, entries[-1].pop())
    return rest, entries


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alnb", description="Deep active learning on images, in notebooks.", epilog="ALNB_TRACEBACK=1 shows tracebacks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    execution = argparse.ArgumentParser(add_help=False)
    parameter = "may be repeated; several values make a list, and 0:5 means 0 1 2 3 4"
    execution.add_argument("-p", dest="parameters", nargs="+", action="append", default=[], metavar=("NAME", "VALUE"), help=parameter)
    scale: dict[str, Any] = {"type": lambda scale: ["scale", scale], "metavar": "SCALE", "help": "the same as -p scale SCALE"}
    execution.add_argument("--scale", dest="parameters", action="append", **scale)
    execution.add_argument("--kernel-free", action="store_true", help="without Jupyter and without figures, as where papermill is missing")
    run = commands.add_parser("run", parents=[execution], help="execute a notebook with parameters, by papermill")
    run.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    run.add_argument("-o", "--output", type=Path, help="where the executed copy goes (default: runs/NOTEBOOK/notebooks/TIME.ipynb)")
    run.add_argument("--help-notebook", action="store_true", help="list the notebook's parameters and exit")
    skip: dict[str, Any] = {"const": ["skip_bad", "true"], "help": "leave out unreadable images (the same as -p skip_bad true)"}
    run.add_argument("--skip-bad", dest="parameters", action="append_const", **skip)
    run.set_defaults(do=_run)
    command.add(commands, execution)
    data = commands.add_parser("data", help="fetch a dataset, verify it, print where it is")
    data.add_argument("name", metavar="NAME", help="as in alnb.data.DATASETS")
    data.add_argument("--root", type=Path, help="folder of the datasets (default: $ALNB_DATA, else data/ in the project)")
    data.set_defaults(do=_data)
    export = commands.add_parser("export", help="write the records of runs as one table, Parquet or CSV")
    export.add_argument("runs", type=Path, metavar="RUNS", help="a folder; runs are found at any depth")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .parquet or .csv")
    export.set_defaults(do=_export)
    return parser


def _run(options: argparse.Namespace) -> int:
    from alnb.notebook import kernel_free, parameters
    from alnb.notebook.execute import execute
    from alnb.notebook.sweep.engine import plan

    if options.help_notebook:
        print(parameters.help_text(options.notebook))
        return 0
    values = parameters.parse(options.parameters, parameters.read(options.notebook))
    plan(options.notebook, values, options.output)
    if options.kernel_free or find_spec("papermill") is None:
        kernel_free.execute(options.notebook, values)
        print("runs complete. Run again with Jupyter to draw the figures")
        return 0
    print(f"executed notebook: {execute(options.notebook, values, options.output)}")
    return 0


def _data(options: argparse.Namespace) -> int:
    from alnb import data

    print(f"{options.name}: {data.fetch(options.name, options.root)}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from alnb.report import records

    records.check_suffix(options.output)
    frame = records.load(options.runs)
    print(f"{len(frame)} rows of {frame['run'].nunique()} runs: {records.export(frame, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
