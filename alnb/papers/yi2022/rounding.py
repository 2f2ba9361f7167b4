"""What rounding alone changes: the same runs under a narrower instruction set of the CPU, in a process of its own.

Losses then differ in their last bits. PT4AL takes its first labels at even intervals of the losses' ranks, so swapped ranks give it
other images. Torch chooses its kernels when it is imported: hence the process.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from alnb.notebook.execute import python_path
from alnb.notebook.sweep.child import follow
from alnb.papers import jobs
from alnb.papers.jobs import TaggedRun
from alnb.papers.notebooks import Page
from alnb.papers.yi2022 import experiment as yi

# The narrowest set: on the AMD EPYC of this project's records AVX2 and AVX512 gave equal pretext losses, bit for bit, at scale laptop.
KERNELS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
WIDER = ("AVX2", "AVX512")  # what torch may use otherwise


def run(page: Page, setting: yi.Setting, strategies: Iterable[str], seeds: Iterable[int], pretexts: Iterable[int] = ()) -> list[TaggedRun]:
    """The finished runs of `setting` under `KERNELS`. They lie beside `page.runs`, and have a pretext of their own.

    Their tag `preset` says it, as in "clean, default kernels". Where torch has no narrower set, or the runs are on a GPU, a line says so.

    Returns: the runs, in the order of the jobs; none where this cannot be shown.
    Raises:
        ChildProcessError: the process died. The same call continues.
        stop.TimeIsUp, store.Locked, …: as `jobs.run`; the error of the process is raised here.
    """
    capability, device = torch.backends.cpu.get_cpu_capability(), page.source["device"]
    if capability not in WIDER or device != "cpu":
        print(f"what rounding changes cannot be shown on {device} with {capability} kernels: it needs a CPU with {' or '.join(WIDER)}")
        return []
    name = KERNELS["ATEN_CPU_CAPABILITY"]
    folder = page.runs.with_name(f"{page.runs.name}-{name}")
    wanted = [{**job, "preset": f"{job['preset']}, {name} kernels"} for job in yi.jobs(setting, strategies, seeds, pretexts)]
    finished, left = jobs.find(wanted, folder)
    if left:
        variables = {**KERNELS, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        _in_process((setting, wanted, folder, dict(page.source)), variables, f"the runs with {name} kernels in {folder}")
    return jobs.find(wanted, folder)[0] if left else finished


def _in_process(work: tuple[Any, ...], variables: dict[str, str], what: str) -> None:
    """Call `_make` with `work` in a process that has these variables, and raise its error. It ends with this process."""
    command = [sys.executable, "-m", "alnb.papers.yi2022.rounding", str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": python_path(), **variables}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            answer, _ = process.communicate(pickle.dumps(work))
        except BaseException:  # Ctrl-C, which may have reached this process alone
            process.terminate()  # like a kill, that loses nothing
            process.wait()
            raise
    if not answer:
        raise ChildProcessError(f"the process that makes {what} died with status {process.returncode} (out of memory?): start it again")
    error = pickle.loads(answer)
    if error is not None:
        error.add_note(f"raised by the process that makes {what}")
        raise error


def _make(setting: yi.Setting, wanted: list[jobs.Job], folder: Path, source: dict[str, Any]) -> None:
    prepared = yi.prepare(setting, folder, **source)
    jobs.run(wanted, lambda job: yi.experiment(prepared, job), folder)


def difference(finished: Iterable[TaggedRun], narrower: Iterable[TaggedRun]) -> str:
    """One line on what the runs of `run` share with those of equal tags among `finished`, and how far apart they are.

    By strategy, means over seeds: first labels that are the same; points of accuracy between the two, in the first cycle and on the mean
    of all cycles, without sign.
    Raises: ValueError if a run has no equal among `finished`.
    """
    rows: dict[str, list[tuple[int, float, float]]] = {}
    title = "there are no runs under another instruction set"
    for run, tags in narrower:
        preset = tags["preset"].rpartition(", ")[0]
        twin = next((other for other, names in finished if names == {**tags, "preset": preset}), None)
        if twin is None:
            raise ValueError(f"{run.path} has no equal under {preset!r}: give the runs of the same strategies and seeds")
        pairs = list(zip(twin.records(), run.records(), strict=True))
        asked, again = (set(record["queried"]) for record in pairs[0])
        apart = [100 * (a["metrics"]["accuracy"] - b["metrics"]["accuracy"]) for a, b in pairs]
        rows.setdefault(tags["strategy"], []).append((len(asked & again), abs(apart[0]), abs(fmean(apart))))
        first, second = ((each.manifest or {})["environment"].get("cpu", "GPU") for each in (twin, run))
        title = f"{first} against {second}, {len(asked)} first labels, means over seeds"
    text = "{}: {:.1f} shared, {:.1f} points apart in the first cycle, {:.1f} averaged over cycles"
    return "; ".join([title, *(text.format(name, *map(fmean, zip(*by_seed, strict=True))) for name, by_seed in rows.items())])


def main(parent: int) -> None:
    """Make the runs that standard input names; the error, or None, goes to standard output."""
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
    error = None
    try:
        with redirect_stdout(sys.stderr):
            _make(*pickle.load(sys.stdin.buffer))
    except BaseException as raised:  # an interruption, too
        error = raised
    sys.stdout.buffer.write(pickle.dumps(error))


if __name__ == "__main__":
    main(int(sys.argv[1]))
