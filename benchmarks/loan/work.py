"""The minutes of a loan: sweeps in order of worth, without Jupyter, and parcels of what is there when the time is up."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alnb import store
from alnb.notebook.sweep import command, engine, grid
from benchmarks.loan import parcels

RESERVE = 40.0  # seconds at the end: 20 in which cells reach a checkpoint (`cell.GRACE`), and 20 to pack
LEAST = 15.0  # seconds left with which a sweep is not begun: a process needs as much to find its images on the GPU
RECORDS, WEIGHTS = "records.tar.xz", "weights.tar"
SWEEPS = Path("notebooks", "sweeps", "paper")


@dataclass(frozen=True)
class Loan:
    """How the minutes are used."""

    minutes: float  # all together, with the packing
    out: Path  # where the parcels go
    runs: Path  # where the runs lie, also those of an earlier loan
    weights: Sequence[str] = ("simsiam",)  # pretexts whose weights come back, as far as there is room
    options: tuple[tuple[str, Any], ...] = ()  # of `engine.sweep`, such as ("per_gpu", 4)
    words: tuple[tuple[str, ...], ...] = ()  # parameters that replace those of the sweep files, as `grid.read_words` takes them

    def use(self, files: Iterable[Path] = ()) -> int:
        """Execute sweep files in their order, by default those of `SWEEPS`, until the time is up; then pack.

        Records are packed after each file, so that a loan that ends early keeps them. A file that fails does not hold up the next.
        Returns: 0 if all is done, 1 if something failed, 75 if something is left to do.
        """
        end, worst = time.monotonic() + 60 * self.minutes - RESERVE, 0
        for file in list(files) or sorted((store.workspace() / SWEEPS).glob("*.yaml")):
            left = end - time.monotonic()
            if left < LEAST:
                print(f"== {file}: not begun, time is up", flush=True)
                worst = worst or command.LEFT
                continue
            print(f"== {file}, {left:.0f} s left", flush=True)
            status = self._sweep(file, left)
            worst = status if worst == 0 or status == command.FAILED else worst
            self.pack()
        self.pack(weights=True)
        return worst

    def _sweep(self, file: Path, seconds: float) -> int:
        try:
            path, values, over = grid.read_file(file, [["runs", str(self.runs)], *self.words])
            result = engine.sweep(path, values, over=over, kernel_free=True, retry=True, time_limit=seconds, **dict(self.options))
        except Exception as error:  # a misspelt parameter or missing images: the other files may still be useful
            print(f"{file}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return command.FAILED
        return command.conclude(result)

    def pack(self, *, weights: bool = False) -> list[Path]:
        """Write the records, and the weights if asked for, as at most `parcels.MOST_FILES` files. Returns their paths."""
        self.out.mkdir(parents=True, exist_ok=True)
        files = parcels.write(parcels.records(self.runs), self.out, RECORDS)
        room = parcels.MOST_TOGETHER - sum(file.stat().st_size for file in files)
        room = min(room, (parcels.MOST_FILES - len(files)) * parcels.MOST_BYTES) - (1 << 20)
        if weights and (content := parcels.pretrainings(self.runs, self.weights, room)):
            files += parcels.write(content, self.out, WEIGHTS)
        for file in files:
            print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB", flush=True)
        return files
