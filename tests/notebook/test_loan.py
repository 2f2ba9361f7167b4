"""Loans of a machine for minutes: what travels, what is refused, and a rehearsal without Jupyter, from an empty folder and back."""

import functools
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import NOT_ON_LOAN, site_without

import alnb
from alnb import store
from alnb.data import ImageSet
from alnb.learn.pretexts import PRETEXTS
from alnb.learn.pretrain import pretrain
from alnb.store import stop
from benchmarks.loan import __main__ as loan
from benchmarks.loan import images, parcels, weights
from benchmarks.loan.work import RECORDS, WEIGHTS, Loan

PROJECT = Path(__file__).parents[2]
LOAN = ("-m", "benchmarks.loan")


# ---- weights ---------------------------------------------------------------------------------------------------------------------


def test_weights_are_rounded_to_bfloat16_and_keep_their_strides_losses_and_numbers_are_exact() -> None:
    last = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    content = {
        "net": {"a": torch.randn(3, 2), "last": last, "count": torch.tensor(7), "one": torch.rand(())}, "losses": torch.rand(9),
        "optimiser": {"state": {0: {"momentum_buffer": last * 2}}, "param_groups": [{"lr": 0.1, "params": [0]}]}, "step": 3,
    }  # fmt: skip
    packed = weights.small(content)
    back = torch.load(io.BytesIO(weights.large(packed)), weights_only=True)
    assert torch.equal(back["losses"], content["losses"]) and back["step"] == 3 and back["net"]["count"] == 7
    for name in ("a", "last", "one"):
        assert torch.equal(back["net"][name], content["net"][name].bfloat16().float())
    assert back["net"]["last"].stride() == last.stride()
    assert back["optimiser"]["param_groups"] == content["optimiser"]["param_groups"]
    assert torch.equal(back["optimiser"]["state"][0]["momentum_buffer"], (last * 2).bfloat16().float())
    assert weights.large(packed) == weights.large(packed)


def test_weights_travel_at_less_than_half_their_size() -> None:
    content = {"net": {"a": torch.randn(200_000) * 0.05}}
    assert len(weights.small(content)) < 0.75 * 2 * 200_000


# ---- parcels ---------------------------------------------------------------------------------------------------------------------


def runs_below(folder: Path) -> Path:
    run = folder / "runs/yi2022/random-0"
    store.write_json(run / "manifest.json", {"format": 1})
    store.write_json(run / "cycle_000/record.json", {"cycle": 0})
    store.write_json(folder / "runs/cells/figure3/a/cell.json", {"state": "done"})
    (folder / "runs/cells/figure3/a/log.txt").write_text("much")
    result = {"trunk": {"w": torch.rand(5)}, "head": {}, "features": torch.rand(9, 4), "losses": torch.rand(9), "seconds": 1.0}
    store.write_tensors(folder / "runs/yi2022/pretrained/rotation-1/result.pt", result)
    store.write_tensors(folder / "runs/yi2022/pretrained/embedded-1/result.pt", {"features": torch.rand(9, 4), "views": None})
    store.write_json(folder / "runs/yi2022/pretrained/embedded-1/manifest.json", {"format": 1})
    (folder / "runs/yi2022/pretrained/simsiam-1").mkdir()
    (folder / "runs/yi2022/pretrained/simsiam-1/checkpoint.pt").write_bytes(b"damaged")
    return folder / "runs"


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_records_and_losses_come_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = runs_below(tmp_path)
    files = Loan(1, tmp_path / "out", root).pack(weights=True)
    assert [file.name for file in files] == [RECORDS] and "simsiam-1/checkpoint.pt is truncated" in capsys.readouterr().err
    first = parcels.bring(files, tmp_path / "home")
    before, after = files_below(root), files_below(tmp_path / "home")
    texts = {name for name in before if name.endswith(".json") and "embedded" not in name}
    assert {name: before[name] for name in texts} == {name: after[name] for name in texts}
    assert set(after) == {*texts, "yi2022/pretrained/rotation-1/result.pt"} and first.written == len(after)
    there, here = (store.read_tensors(f / "yi2022/pretrained/rotation-1/result.pt") for f in (root, tmp_path / "home"))
    assert torch.equal(here["losses"], there["losses"]) and here["trunk"] == {} and here["features"].numel() == 0
    second = parcels.bring(files, tmp_path / "home")
    assert second == parcels.Brought(0, len(after), ())


def test_what_is_newer_here_stays_and_a_different_record_is_refused(tmp_path: Path) -> None:
    root, home = runs_below(tmp_path), tmp_path / "home"
    files = Loan(1, tmp_path / "out", root).pack()
    store.write_json(home / "cells/figure3/a/cell.json", {"state": "running"})
    result = home / "yi2022/pretrained/rotation-1/result.pt"
    store.write_tensors(result, {"trunk": {"w": torch.ones(5)}})
    os.utime(result, (1, 1))
    brought = parcels.bring(files, home)
    assert brought.kept == ("cells/figure3/a/cell.json",) and brought.written == 3
    assert store.read_json(home / brought.kept[0]) == {"state": "running"} and store.read_tensors(result)["trunk"] == {}
    record = home / "yi2022/random-0/cycle_000/record.json"
    store.write_json(record, {"cycle": 5})
    os.utime(record, (1, 1))
    (home / "yi2022/random-0/manifest.json").unlink()
    with pytest.raises(parcels.BadParcel, match=str(record)):
        parcels.bring(files, home)
    assert store.read_json(record) == {"cycle": 5} and not (home / "yi2022/random-0/manifest.json").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    files = Loan(1, tmp_path / "out", runs_below(tmp_path)).pack()
    with store.exclusive(tmp_path / "home/yi2022/random-0", wait=False), pytest.raises(parcels.BadParcel, match=r"random-0 is in use"):
        parcels.bring(files, tmp_path / "home")
    assert not (tmp_path / "home/yi2022/pretrained").exists()


def test_parts_are_joined_and_a_missing_or_damaged_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "MOST_BYTES", 5000)
    content: parcels.Content = {f"{k}.json": (os.urandom(3000), 10 + k) for k in range(4)}
    files = parcels.write(content, tmp_path, WEIGHTS)
    assert len(files) > 2 and all(file.stat().st_size <= 5000 for file in files)
    assert parcels.read(reversed(files)) == content
    with pytest.raises(parcels.BadParcel, match=f"lacks part 2 of {len(files)}"):
        parcels.bring([files[0], *files[2:]], tmp_path / "home")
    piece = bytearray(files[1].read_bytes())
    piece[100] ^= 1
    files[1].write_bytes(piece)
    with pytest.raises(parcels.BadParcel, match=WEIGHTS):
        parcels.bring(files, tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("cut", [slice(0, -2000), slice(0, 0), slice(600, None)])
def test_a_damaged_parcel_is_refused(tmp_path: Path, cut: slice) -> None:
    (file,) = Loan(1, tmp_path / "out", runs_below(tmp_path)).pack()
    file.write_bytes(file.read_bytes()[cut])
    with pytest.raises(parcels.BadParcel, match=str(file)):
        parcels.bring([file], tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["../out.json", "/etc/out.json", "a/../../out.json", "a\\b.json", "run.sh", "a//b.json", "C:/a.json"])
def test_no_path_leads_out_of_the_runs(tmp_path: Path, name: str) -> None:
    (file,) = parcels.write({"fine.json": (b"{}", 5), name: (b"{}", 5)}, tmp_path, "records.tar")
    with pytest.raises(parcels.BadParcel, match="below the runs"):
        parcels.bring([file], tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_links_and_unlisted_files_are_refused(tmp_path: Path) -> None:
    listing = json.dumps({"a.json": hashlib.sha256(b"{}").hexdigest()}).encode()
    file = tmp_path / "made.tar"
    with tarfile.open(file, "w") as archive:
        for name, data in {parcels.LIST: listing, "a.json": b"{}"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("b.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(parcels.BadParcel, match=str(file)):
        parcels.bring([file], tmp_path / "home")


def test_a_pretraining_adds_up_over_loans(tmp_path: Path, train: ImageSet, learner: alnb.Learner) -> None:
    """SimSiam is stopped, its weights travel as bfloat16, and it ends elsewhere with the updates that were left."""
    reports: list[int] = []
    pretext = PRETEXTS["simsiam"]
    learned = functools.partial(pretrain, pretext, train.images, learner, report=lambda done, *_: reports.append(done))
    calls = iter(range(1000))
    with stop.requested_by(lambda: next(calls) > 5), pytest.raises(stop.TimeIsUp, match="of 15: "):
        learned(cache=tmp_path / "runs/bengar2021/pretrained")
    files = Loan(1, tmp_path / "out", tmp_path / "runs").pack(weights=True)
    assert len(files) >= 2 and len(files) <= parcels.MOST_FILES and max(file.stat().st_size for file in files) <= 16 << 20
    parcels.bring(files, tmp_path / "home")
    (path,) = (tmp_path / "home").rglob("checkpoint.pt")
    here, there = store.read_tensors(path), store.read_tensors(next((tmp_path / "runs").rglob("checkpoint.pt")))
    assert here["step"] == there["step"] < 15
    assert all(
        torch.equal(here["net"][name], value.bfloat16().float()) for name, value in there["net"].items() if value.is_floating_point()
    )
    for number, entry in there["optimiser"]["state"].items():
        buffer = here["optimiser"]["state"][number]["momentum_buffer"]
        assert buffer.stride() == entry["momentum_buffer"].stride() and torch.equal(buffer, entry["momentum_buffer"].bfloat16().float())
    reports.clear()
    result = learned(cache=tmp_path / "home/bengar2021/pretrained")
    assert reports and reports[0] > here["step"] and result.losses.isfinite().all()
    back = Loan(1, tmp_path / "out2", tmp_path / "home").pack(weights=True)  # the finished backbone is exact: runs are named by its bits
    parcels.bring(back, tmp_path / "third")
    again = learned(cache=tmp_path / "third/bengar2021/pretrained")
    assert again.backbone.fingerprint == result.backbone.fingerprint and torch.equal(again.losses, result.losses)


# ---- images ----------------------------------------------------------------------------------------------------------------------


def test_an_official_file_comes_back_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file with the layout of the official ones, with the pixels of noise and of equal images."""
    place = tmp_path / "from/cifar-10-batches-py"
    place.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    pixels[100:200] = 7
    for name in (*images.PARTS[0], *images.PARTS[1]):
        content = {"num_vis": 3072} if name == "batches.meta" else {"batch_label": name, "data": pixels, "labels": [1] * 300}
        (place / name).write_bytes(pickle.dumps(content, protocol=4))
    monkeypatch.setattr(images.datasets, "fetch", lambda name, root: place)
    first, second = images.pack(tmp_path / "parcel")
    assert images.unpack([first], tmp_path / "to") == tmp_path / "to/cifar-10-batches-py"
    assert len(files_below(tmp_path / "to")) == 4
    images.unpack([second], tmp_path / "to")
    assert files_below(tmp_path / "to/cifar-10-batches-py") == files_below(place)
    monkeypatch.setenv("ALNB_DATA", str(tmp_path / "later"))
    assert loan.main(["unpack", str(second)]) == 1  # so that a second call on a fresh machine ends at once
    assert "still missing: batches.meta, data_batch_1, data_batch_2, data_batch_3" in capsys.readouterr().out
    assert loan.main(["unpack", str(first.parent)]) == 0


# ---- a rehearsal -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """A machine without Jupyter, and a project on it that nobody installed."""
    for name in ("alnb", "benchmarks", "notebooks"):
        shutil.copytree(PROJECT / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path / "project")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ALNB_")}
    path = os.pathsep.join((str(site_without(NOT_ON_LOAN, tmp_path)), str(tmp_path / "project")))

    def run(*arguments: str) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "check": False, "timeout": 600}
        environment = {**variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path / "project", env=environment, **options)

    return run


@pytest.mark.slow
def test_two_loans_in_rehearsal(machine: Callable[..., subprocess.CompletedProcess], tmp_path: Path) -> None:
    """The first sweep file of the papers in one loan, the second in another, which gets what the first brought back; then home."""
    small = ["-p", "scale", "smoke", "-p", "device", "cpu", "-p", "pretexts", "0", "-p", "seeds", "0", "--workers", "2", "--threads", "1"]
    files = sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "notebooks/sweeps/paper").glob("*.yaml"))[:2]

    def work(name: str, *files: str) -> subprocess.CompletedProcess:
        return machine(
            *LOAN, "work", *files, "--minutes", "5", "--out", str(tmp_path / name), "--runs", str(tmp_path / f"{name}-runs"), *small
        )

    first = work("first", files[0])
    assert first.returncode == 0 and "1 cell: 1 done" in first.stdout, first.stdout + first.stderr
    brought = machine(*LOAN, "bring", str(tmp_path / "first"), "--runs", str(tmp_path / "second-runs"))
    assert brought.returncode == 0, brought.stdout + brought.stderr
    before = files_below(tmp_path / "second-runs")
    second = work("second", *files)
    assert second.returncode == 0 and "1 cell, 0 of them to do" in second.stdout, second.stdout + second.stderr
    assert "2 cells: 2 done" in second.stdout
    after = files_below(tmp_path / "second-runs")
    assert {name: after[name] for name in before} == before  # the rotation was not learned again, and no record changed
    home = machine(*LOAN, "bring", str(tmp_path / "second"))
    assert home.returncode == 0, home.stdout + home.stderr
    runs = files_below(tmp_path / "project/runs/paper")
    records = {name: data for name, data in after.items() if name.endswith(("record.json", "manifest.json"))}
    assert {name: runs[name] for name in records} == records and sum(name.endswith("record.json") for name in records) == 2 + 2 * 3
    sizes = [path.stat().st_size for path in (tmp_path / "second").iterdir()]
    assert len(sizes) <= 8 and max(sizes) <= 16 << 20


@pytest.mark.slow
def test_a_loan_without_time_begins_nothing_and_a_bad_parcel_is_an_error(
    machine: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    late = machine(*LOAN, "work", "--minutes", "0.5", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    assert late.returncode == 75 and late.stdout.count("time is up") == len(list((PROJECT / "notebooks/sweeps/paper").glob("*.yaml")))
    (tmp_path / "out" / RECORDS).write_bytes(b"no")
    bad = machine(*LOAN, "bring", str(tmp_path / "out"))
    assert bad.returncode == 2 and f"loan: {tmp_path / 'out' / RECORDS} is no parcel" in bad.stderr


@pytest.mark.slow
def test_the_gpu_tests_are_collected_without_jupyter(tmp_path: Path) -> None:
    """As many as stand in the files; a module that needs Jupyter is left out, and has none."""
    path = os.pathsep.join((str(site_without(NOT_ON_LOAN, tmp_path)), str(PROJECT)))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    marked = {file.name: file.read_text().count("\n@pytest.mark.gpu") for file in (PROJECT / "tests").rglob("test_*.py")}
    names = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert len(names) == sum(marked.values()) > 10
