"""The run folder: its manifest, its records, its lock; and a cache of results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alnb.store.describe import differences, environment, fingerprint, version
from alnb.store.files import RECOMPUTE, Corrupted, Json, read_json, read_tensors, write_json, write_tensors
from alnb.store.locks import exclusive

LOCK_SECONDS = "ALNB_LOCK_SECONDS"  # seconds to wait for a run that is in use, such as by a process that is being killed; not set: 0
FORMAT = 1
"""Version of the record format: the names in `manifest.json` and `record.json`. A change that readers must know raises it."""


class NewerFormat(Exception):
    """A run folder was written by a later version of this package, in a format that this version does not know."""


class ManifestDiffers(Exception):
    """A run folder holds another experiment than the one to be continued in it."""


class Run:
    """A folder that holds one run: `manifest.json` and, for each finished cycle, `cycle_KKK/record.json`, written last.

    Reading a run needs no lock. The one process that adds to it holds the `lock`.
    """

    def __init__(self, path: Path | str) -> None:
        """`path` need not exist yet."""
        self.path = Path(path)

    @classmethod
    def named(cls, root: Path | str, slug: str, experiment: Json) -> Run:
        """The run of `experiment`, a manifest, below `root`: its folder's name is `slug` and a digest of the manifest."""
        return cls(Path(root) / f"{slug}-{fingerprint(experiment)[:10]}")

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"Run({str(self.path)!r})"

    def folder(self, cycle: int) -> Path:
        """The folder of one cycle."""
        return self.path / f"cycle_{cycle:03d}"

    @property
    def manifest(self) -> Json | None:
        """What runs here (`experiment`) and in which environment it started (`environment`); None before the first cycle.

        Raises:
            Corrupted: it is damaged, or missing beside finished cycles.
            NewerFormat: see `FORMAT`.
        """
        path, remedy = self.path / "manifest.json", f"restore it from a copy, or move {self.path} away to start again"
        if path.exists():
            manifest = read_json(path, remedy)
            number = manifest.get("format")
            if type(number) is not int or number > FORMAT:
                author = manifest.get("environment", {}).get("alnb", "a later version")
                raise NewerFormat(
                    f"{self.path} has record format {number!r}, written by alnb {author}; alnb {version()} knows formats up to "
                    f"{FORMAT}: update alnb (`git pull` in its checkout, then `pip install -c constraints.txt -e .`), and call again"
                )
            return manifest
        if any(self.path.glob("cycle_*/record.json")):
            raise Corrupted(f"{path} is missing, but there are finished cycles; {remedy}")
        return None

    def records(self) -> list[Json]:
        """The records of all finished cycles, in order.

        Raises:
            Corrupted: a record is damaged, or one is missing before a later one.
        """
        folders = (name for name in os.listdir(self.path) if name.startswith("cycle_")) if self.path.exists() else ()
        numbers = sorted(int(n.removeprefix("cycle_")) for n in folders if os.path.exists(f"{self.path}/{n}/record.json"))
        for expected, number in enumerate(numbers):
            if expected != number:
                raise Corrupted(
                    f"{self.folder(expected) / 'record.json'} is missing, but cycle {number} is there; "
                    "restore it, or delete the later cycles"
                )
        remedy = "restore it from a copy, or delete its cycle_ folder and all later folders to have them computed again"
        return [read_json(self.folder(number) / "record.json", remedy) for number in numbers]

    def claim(self, experiment: Json) -> None:
        """Check that the manifest, if there is one, describes `experiment`.

        Raises:
            ManifestDiffers: the message names every field that differs.
        """
        manifest = self.manifest
        lines = "" if manifest is None else "\n  ".join(differences(manifest["experiment"], experiment))
        if lines:
            remedy = "Use those values, or give the new experiment another folder."
            raise ManifestDiffers(f"{self.path} holds another experiment:\n  {lines}\n{remedy}")

    def begin(self, experiment: Json, device: torch.device) -> tuple[str, ...]:
        """Write the manifest, or check that the environment is the same. Called with the lock held, before anything is added.

        Returns:
            Notes for the next records: how the environment differs, the commit included.
        Raises:
            ManifestDiffers: versions, device or threads differ from those of the finished cycles, and $ALNB_OTHER_ENVIRONMENT is not "1".
                The commit may differ.
        """
        self.claim(experiment)
        for part in self.path.glob("**/.*.part"):
            part.unlink(missing_ok=True)
        now = environment(device)
        manifest = self.manifest
        if manifest is None:
            write_json(self.path / "manifest.json", {"format": FORMAT, "experiment": experiment, "environment": now})
            return ()
        lines = tuple(differences(manifest["environment"], now))
        serious = "\n  ".join(line for line in lines if not line.startswith("commit:"))
        if serious and os.environ.get("ALNB_OTHER_ENVIRONMENT") != "1":
            remedy = "Continue it there, use a new folder, or set ALNB_OTHER_ENVIRONMENT=1: the records then say so in their notes."
            message = f"{self.path} was started in another environment, and results may differ in the last bits:\n  {serious}\n{remedy}"
            raise ManifestDiffers(message)
        return lines

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against every other process, and every other generator in this process.

        Raises:
            Locked: another process holds it, also after $ALNB_LOCK_SECONDS; the message names the process.
        """
        with exclusive(self.path, wait=float(os.environ.get(LOCK_SECONDS, 0))):
            yield


def cached(
    cache: Path | str,
    slug: str,
    experiment: Json,
    device: torch.device,
    compute: Callable[[Path], dict[str, Any]],
    leftovers: Iterable[str] = (),
) -> dict[str, Any]:
    """The result of `compute` for `experiment`: computed once, written below `cache` in a folder named as runs are, then read from there.

    If two processes want the same result, the second waits for the first.

    Args:
        compute: called with the folder; returns tensors and plain values by name.
        leftovers: files in the folder that are deleted when the result is written, such as checkpoints.
    Raises:
        Corrupted: the result is damaged, or of another computation; the message names it.
    """
    run = Run.named(cache, slug, experiment)
    result = run.path / "result.pt"
    with exclusive(run.path, wait=True):
        run.claim(experiment)
        if not result.exists():
            notes = run.begin(experiment, device)
            write_tensors(result, {"experiment": fingerprint(experiment), "notes": notes, **compute(run.path)})
            for leftover in leftovers:
                (run.path / leftover).unlink(missing_ok=True)
        content: dict[str, Any] = read_tensors(result, device)
    if content["experiment"] != fingerprint(experiment):
        raise Corrupted(f"{result} is the result of another computation; {RECOMPUTE}")
    return content
