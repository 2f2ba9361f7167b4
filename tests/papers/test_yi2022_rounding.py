"""The same runs under another instruction set: in a process of their own, beside the others, compared in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alnb import store
from alnb.papers.notebooks import Page
from alnb.papers.yi2022 import experiment as yi
from alnb.papers.yi2022 import rounding
from alnb.report import records
from alnb.store import Run, stop
from alnb.store.describe import differences

CAPABILITY = torch.backends.cpu.get_cpu_capability()
narrow = pytest.mark.skipif(CAPABILITY not in rounding.WIDER, reason=f"torch has no narrower kernels than {CAPABILITY}")
SMOKE = yi.setting("cifar10", "smoke", cycles=2)
STRATEGIES = ("random", "pt4al")


def page_at(folder: Path, device: str = "cpu") -> Page:
    return Page("yi2022", "protocols", "smoke", folder / "yi2022", folder, {"root": None, "device": device, "download": False})


def no_process(*args: Any, **options: Any) -> None:
    raise AssertionError("a process was started")


@narrow
@pytest.mark.slow
def test_runs_under_narrower_kernels_lie_beside_and_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_at(tmp_path)
    prepared = page.data(SMOKE)
    finished = page.run(yi.jobs(SMOKE, STRATEGIES, [0]), lambda job: yi.experiment(prepared, job))
    narrower = rounding.run(page, SMOKE, STRATEGIES, [0])
    assert [tags["strategy"] for _, tags in narrower] == list(STRATEGIES)
    for (first, tags), (second, others) in zip(finished, narrower, strict=True):
        assert second.path.parent == tmp_path / "yi2022-default" and others == {**tags, "preset": "clean, default kernels"}
        manifests = first.manifest, second.manifest
        changed = {line.partition(":")[0] for line in differences(*(manifest["experiment"] for manifest in manifests))}
        assert changed == {"tags.preset", *(["side.pretext_loss.sha256"] if tags["pretext"] else [])}
        lines = differences(*(manifest["environment"] for manifest in manifests))
        assert {line.partition(":")[0] for line in lines} - {"commit"} == {"cpu"}  # somebody may commit while the tests run
        assert manifests[1]["environment"]["cpu"].endswith("DEFAULT, oneDNN at most SSE41")
    assert (tmp_path / "yi2022-default" / "pretrained").exists()  # a pretext of their own
    assert len(records.find(page.runs)) == 2  # and no other notebook takes them for the runs of this machine
    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert [run.path for run, _ in rounding.run(page, SMOKE, STRATEGIES, [0])] == [run.path for run, _ in narrower]
    assert rounding.difference(finished, narrower).startswith(manifests[0]["environment"]["cpu"])


@narrow
@pytest.mark.slow
def test_stop_requests_pass_and_an_error_says_where_it_was_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_at(tmp_path)
    monkeypatch.setenv(stop.DEADLINE, "1")
    with pytest.raises(stop.TimeIsUp) as caught:
        rounding.run(page, SMOKE, ["random"], [0])
    assert "default kernels in" in caught.value.__notes__[0]
    assert not list(tmp_path.rglob("record.json"))


@narrow
def test_a_process_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match=r"default kernels in .*yi2022-default died with status 1"):
        rounding.run(page_at(tmp_path), SMOKE, ["random"], [0])


@narrow
def test_an_interruption_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def interrupted(process: subprocess.Popen[bytes], *args: object) -> None:
        processes.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rounding.run(page_at(tmp_path), SMOKE, ["random"], [0])
    assert [process.returncode is not None for process in processes] == [True]


@pytest.mark.parametrize(("capability", "device"), [("DEFAULT", "cpu"), ("SVE256", "cpu"), ("AVX512", "cuda")])
def test_where_it_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capability: str, device: str
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert rounding.run(page_at(tmp_path, device), SMOKE, STRATEGIES, [0]) == []
    assert f"on {device} with {capability} kernels" in capsys.readouterr().out
    assert rounding.difference([], []) != ""


def made(path: Path, tags: dict[str, Any], cpu: str, queries: list[list[int]], accuracies: list[float]) -> tuple[Run, dict[str, Any]]:
    run = Run(path)
    store.write_json(path / "manifest.json", {"format": store.FORMAT, "experiment": {"tags": tags}, "environment": {"cpu": cpu}})
    for cycle, (queried, accuracy) in enumerate(zip(queries, accuracies, strict=True)):
        store.write_json(run.folder(cycle) / "record.json", {"cycle": cycle, "queried": queried, "metrics": {"accuracy": accuracy}})
    return run, tags


def test_the_difference_in_one_line(tmp_path: Path) -> None:
    finished, narrower = [], []
    for seed, (query, low) in enumerate((([3, 4, 5, 6], 0.26), ([1, 2, 3, 4], 0.32))):
        tags = {"strategy": "pt4al", "seed": seed, "preset": "clean, init=warm"}
        finished.append(made(tmp_path / f"a{seed}", tags, "x86_64 AVX512", [[1, 2, 3, 4], [9]], [0.30, 0.40]))
        others = {**tags, "preset": "clean, init=warm, avx2 kernels"}
        narrower.append(made(tmp_path / f"b{seed}", others, "x86_64 AVX2", [query, [7]], [low, 0.42]))
    line = rounding.difference([*finished, (Run(tmp_path), {"strategy": "random"})], narrower)
    # shared 2 and 4 of 4; apart by 4 and 2 points in the first cycle; on the mean of two cycles by (4 - 2) / 2 and (2 + 2) / 2
    assert line == (
        "x86_64 AVX512 against x86_64 AVX2, 4 first labels, means over seeds; "
        "pt4al: 3.0 shared, 3.0 points apart in the first cycle, 1.5 averaged over cycles"
    )
    with pytest.raises(ValueError, match=r"b1 has no equal under 'clean, init=warm'"):
        rounding.difference(finished[:1], narrower)
