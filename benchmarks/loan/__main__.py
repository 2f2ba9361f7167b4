"""The commands of a loan: ``python -m benchmarks.loan``. They need neither Jupyter nor an installed alnb."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alnb import store
from benchmarks.loan import images, parcels
from benchmarks.loan.work import Loan


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status: that of `Loan.use`; 2 if a parcel or the images are bad."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.do(options)
        return status
    except (parcels.BadParcel, images.DataError) as error:
        print(f"loan: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loan", description="Minutes on a machine with a GPU.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    described: dict[str, tuple[Any, str]] = {
        "images": (_images, "write CIFAR-10 as two files that travel, into FOLDER/1 and FOLDER/2"),
        "unpack": (_unpack, "put the images of a part where they are looked for; status 1 while others are missing"),
        "bring": (_bring, "put records and weights below the runs"),
        "work": (_work, "execute sweep files until the time is up, and pack what is there"),
    }
    made = {name: commands.add_parser(name, help=text, description=text) for name, (_, text) in described.items()}
    for name, (do, _) in described.items():
        made[name].set_defaults(do=do)
    made["images"].add_argument("folder", type=Path)
    made["unpack"].add_argument("parts", type=Path, nargs="+", help="the files, or the folders that hold them")
    made["bring"].add_argument("parcels", type=Path, nargs="+", help="the files, or the folders that hold them; all parts in one call")
    work = made["work"]
    work.add_argument("files", type=Path, nargs="*", help="sweep files (default: notebooks/sweeps/paper/*.yaml, in their order)")
    work.add_argument("--minutes", type=float, required=True, help="all together, with the packing")
    work.add_argument("--out", type=Path, required=True, help="where the parcels go")
    work.add_argument("--weights", nargs="*", default=["simsiam"], metavar="PRETEXT", help="whose weights come back (default: simsiam)")
    for name in ("per-gpu", "workers", "threads"):
        work.add_argument(f"--{name}", type=int, help="as for alnb sweep")
    work.add_argument("-p", dest="parameters", nargs="+", action="append", default=[], help="a parameter, as for alnb sweep")
    for name in ("bring", "work"):
        made[name].add_argument("--runs", type=Path, help="where the runs lie (default: runs/paper of the project)")
    return parser


def _runs(options: argparse.Namespace) -> Path:
    return Path(options.runs or store.workspace() / "runs" / "paper").absolute()


def _images(options: argparse.Namespace) -> int:
    for path in images.pack(options.folder):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _bring(options: argparse.Namespace) -> int:
    root = _runs(options)
    if not (files := _files(options.parcels, "*.tar*")):
        raise parcels.BadParcel(f"there is no parcel (*.tar*) in {', '.join(map(str, options.parcels))}")
    brought = parcels.bring(files, root)
    newer = f"; newer here, and so unchanged: {', '.join(brought.kept)}" if brought.kept else ""
    print(f"{root}: {brought.written} files written, {brought.same} were there{newer}")
    return 0


def _work(options: argparse.Namespace) -> int:
    chosen = {name: getattr(options, name) for name in ("per_gpu", "workers", "threads") if getattr(options, name) is not None}
    words = tuple(tuple(entry) for entry in options.parameters)
    return Loan(options.minutes, options.out, _runs(options), options.weights, tuple(chosen.items()), words).use(options.files)


def _unpack(options: argparse.Namespace) -> int:
    folder = images.unpack(_files(options.parts, "*.zip"))
    missing = [name for part in images.PARTS for name in part if not (folder / name).exists()]
    print(f"images: {folder}{'; still missing: ' if missing else ''}{', '.join(missing)}")
    return 1 if missing else 0


def _files(paths: Sequence[Path], pattern: str) -> list[Path]:
    """The files, and those with this pattern in the folders: other output may lie beside them."""
    return [file for path in paths for file in (sorted(path.glob(pattern)) if path.is_dir() else [path])]


if __name__ == "__main__":
    sys.exit(main())
