import dataclasses
import functools
import importlib
import inspect
import json
import math
import os
import pkgutil
import platform
import resource
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import alnb.acquire
import alnb.data
import alnb.learn
import alnb.loop
from alnb import store
from alnb.acquire import STRATEGIES, margin, random
from alnb.loop.experiment import Protocol
from alnb.loop.oracle import simulated
from alnb.store import Corrupted, Locked, ManifestDiffers, Run
from alnb.store import stop as pause

CPU = torch.device("cpu")
anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@anywhere
@given(st.dictionaries(st.text().filter(lambda k: k != "sha256"), json_values, max_size=4))
def test_json_comes_back_as_it_went(tmp_path: Path, content: dict) -> None:
    store.write_json(tmp_path / "x.json", content)
    assert store.read_json(tmp_path / "x.json") == content


CONTENT = {"metrics": {"accuracy": 0.9375}, "queried": [5, 17, 3], "note": "äß"}


def test_what_is_appended_to_a_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    store.write_json(path, CONTENT)
    path.write_text(path.read_text().replace('"\n}', '",\n "note": "another"\n}'))
    assert json.loads(path.read_text())["note"] == "another"
    with pytest.raises(Corrupted, match="checksum mismatch"):
        store.read_json(path)


@anywhere
@given(st.data())
def test_a_changed_byte_of_json_is_never_used(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "record.json"
    store.write_json(path, CONTENT)
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        assert store.read_json(path) == CONTENT  # white space may change
    except Corrupted as error:
        assert str(path) in str(error)


@anywhere
@given(st.data())
def test_a_changed_byte_of_tensors_is_never_used(tmp_path: Path, data: st.DataObject) -> None:
    path, content = tmp_path / "net.pt", {"a": torch.arange(40.0), "step": 3}
    store.write_tensors(path, content)
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        found = store.read_tensors(path)
        assert found["step"] == 3 and torch.equal(found["a"], content["a"])  # padding and time stamps may change
    except Corrupted as error:
        assert str(path) in str(error)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", CONTENT)
    store.write_tensors(tmp_path / "a.pt", {"a": torch.zeros(9)})
    for name, read in (("a.json", store.read_json), ("a.pt", store.read_tensors)):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole) - 2, 7):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(Corrupted, match=name):
                read(tmp_path / name)


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    """A real failing write: the process may not write files beyond 2 kB."""
    path = tmp_path / "record.json"
    store.write_json(path, {"old": 1})
    script = f"""
import resource, signal, pathlib
import alnb.acquire
import alnb.data
import alnb.learn
import alnb.loop
from alnb import store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    store.write_json(pathlib.Path({str(path)!r}), {{"new": "x" * 5000}})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "record.json" in done.stdout and "nothing that was complete is lost" in done.stdout
    assert store.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["record.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000


# ---- descriptions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    lr: float
    sizes: tuple[int, ...]


def test_descriptions_are_plain_and_complete() -> None:
    described = store.describe({"f": margin, "p": functools.partial(zlib_like, level=3), "s": Setting(0.1, (1, 2)), "d": torch.float32})
    inner, kind = described["p"].pop("function"), described["s"].pop("kind")
    assert inner["function"] == f"{__name__}.zlib_like" and len(inner["source"]) == len(kind["source"]) == 64
    assert described == {
        "f": "margin",
        "p": {"args": [], "keywords": {"level": 3}},
        "s": {"lr": 0.1, "sizes": [1, 2]},
        "d": "torch.float32",
    }


def zlib_like(data: bytes, level: int) -> bytes:
    return zlib.compress(data, level)


def test_what_a_function_encloses_is_part_of_it() -> None:
    one, other = simulated(torch.tensor([0, 1])), simulated(torch.tensor([1, 1]))
    assert store.fingerprint(one) != store.fingerprint(other)
    assert store.fingerprint(one) == store.fingerprint(simulated(torch.tensor([0, 1])))


def test_functions_typed_in_a_notebook_differ_by_their_source() -> None:
    first, second = (lambda query: query.candidates[: query.n]), (lambda query: query.candidates[-query.n :])
    assert store.fingerprint(first) != store.fingerprint(second)


def test_what_a_function_works_with_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ((lambda query, n=n: n) for n in (1, 2))
    assert store.fingerprint(one) != store.fingerprint(other)
    before = store.fingerprint(warm)
    monkeypatch.setitem(globals(), "TEMPERATURE", 2.0)
    assert store.fingerprint(warm) != before
    assert store.fingerprint(functools.partial(warm, 1)) != store.fingerprint(functools.partial(warm, 2))
    assert store.fingerprint(20) == store.fingerprint(20.0) != store.fingerprint(20.5)


TEMPERATURE = 1.0


def warm(x: float) -> float:
    return x * TEMPERATURE


def test_descriptions_are_the_same_in_every_process() -> None:
    script = "from alnb import store; print(store.fingerprint(lambda x: x in {'a', 'b', 'c'}, {'x', 'y', 'z'}))"
    run = {"capture_output": True, "text": True, "check": True}
    found = {subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": s}, **run).stdout for s in "123"}
    assert len(found) == 1


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written into a manifest"):
        store.describe(object())


def test_numbers_that_json_lacks_have_a_fingerprint() -> None:
    assert len({store.fingerprint({"limit": limit}) for limit in (math.inf, -math.inf, math.nan)}) == 3


@given(st.lists(st.integers(-100, 100)))
def test_tensor_digest_sees_values(values: list[int]) -> None:
    tensor = torch.tensor(values)
    assert store.digest(tensor) == store.digest(tensor.clone())
    assert not values or store.digest(tensor) != store.digest(tensor + 1)


# ---- run folders ---------------------------------------------------------------------------------------------------------------


def test_a_manifest_that_differs_is_named_field_by_field(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.begin({"seed": 0, "recipe": {"lr": 0.1, "batch": 8}, "strategy": "random"}, CPU)
    run.claim({"seed": 0, "recipe": {"lr": 0.1, "batch": 8}, "strategy": "random"})
    with pytest.raises(ManifestDiffers) as caught:
        run.claim({"seed": 1, "recipe": {"lr": 0.2, "batch": 8}, "strategy": "random"})
    message = str(caught.value)
    assert "seed: the folder has 0, you ask for 1" in message and "recipe.lr: the folder has 0.1, you ask for 0.2" in message
    assert "batch" not in message and "strategy" not in message and str(run.path) in message


def test_another_environment_is_refused_or_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.begin({}, CPU)
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(ManifestDiffers, match=r"torch: the folder has .* you ask for '1.0'"):
        run.begin({}, CPU)
    monkeypatch.setenv("ALNB_OTHER_ENVIRONMENT", "1")
    assert [note.split(":")[0] for note in run.begin({}, CPU)] == ["torch"]


def test_the_kernels_are_recorded_and_name_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    seen = {}
    for capability, limit in ((torch.backends.cpu.get_cpu_capability(), ""), ("AVX1024", ""), ("AVX1024", "avx2")):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        run = Run.named(tmp_path / f"{capability}{limit}", "run", {"seed": 0})
        run.begin({"seed": 0}, CPU)
        seen[store.read_json(run.path / "manifest.json")["environment"]["cpu"].partition(" ")[2]] = run.path.name
        assert capability in list(seen)[-1]
    assert list(seen)[1:] == ["AVX1024", "AVX1024, oneDNN at most AVX2"] and len(set(seen.values())) == 1


def test_formats_of_run_folders(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.begin({"seed": 0}, CPU)
    manifest = store.read_json(run.path / "manifest.json")
    assert manifest["format"] == store.FORMAT
    for number in (store.FORMAT + 1, "two", None):
        store.write_json(run.path / "manifest.json", {**manifest, "format": number})
        with pytest.raises(store.NewerFormat, match=r"run has record format .*knows formats up to \d+: update alnb"):
            run.claim({"seed": 0})


def test_gaps_and_lost_manifests_are_noticed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for k in (0, 2):
        store.write_json(run.folder(k) / "record.json", {"cycle": k})
    with pytest.raises(Corrupted, match=r"cycle_001.*is missing"):
        run.records()
    with pytest.raises(Corrupted, match=r"manifest\.json is missing"):
        run.claim({})


def test_the_second_process_is_told(tmp_path: Path) -> None:
    script = f"""
import sys
from alnb.store import Run
with Run({str(tmp_path)!r}).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"in use by process {other.pid}"), Run(tmp_path).lock():
            pass
        other.kill()  # the lock dies with its holder
    with Run(tmp_path).lock():
        pass
    with Run(tmp_path).lock(), pytest.raises(Locked, match="this very process"), Run(tmp_path).lock():
        pass


def held_by_a_thread(folder: Path, free: threading.Event) -> threading.Thread:
    """Somebody who holds `folder` until it is to be free."""
    found = threading.Event()

    def hold() -> None:
        with store.exclusive(folder, wait=False):
            found.set()
            free.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert found.wait(20)
    return thread


def test_a_folder_is_waited_for_as_long_as_one_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    assert not store.held(tmp_path / "a") and not (tmp_path / "a").exists()
    thread = held_by_a_thread(tmp_path / "a", free)
    (tmp_path / "a/.owner").write_text("17")
    assert store.held(tmp_path / "a") and (tmp_path / "a/.owner").read_text() == "17"
    for wait in (False, 0.0, 0.4):
        began = time.monotonic()
        with pytest.raises(Locked, match="is in use by process 17; wait"), store.exclusive(tmp_path / "a", wait=wait):
            raise AssertionError
        assert wait <= time.monotonic() - began < wait + 10
    with pytest.raises(Locked), Run(tmp_path / "a").lock():
        raise AssertionError
    monkeypatch.setenv(store.LOCK_SECONDS, "20")
    threading.Timer(0.2, free.set).start()
    with Run(tmp_path / "a").lock():
        assert (tmp_path / "a/.owner").read_text() == f"{os.getpid()} on {platform.node()}"
    thread.join()
    assert not store.held(tmp_path / "a")
    thread = held_by_a_thread(tmp_path / "a", free)
    with store.exclusive(tmp_path / "a", wait=True):
        thread.join()


def test_waiting_for_a_folder_can_be_stopped(tmp_path: Path) -> None:
    free, stop = threading.Event(), threading.Event()
    thread = held_by_a_thread(tmp_path / "a", free)
    (tmp_path / "a/.owner").write_text("17")
    threading.Timer(0.3, stop.set).start()
    with (
        pause.requested_by(stop.is_set),
        pytest.raises(pause.TimeIsUp, match="while process 17 was using"),
        store.exclusive(tmp_path / "a", wait=True),
    ):
        raise AssertionError
    free.set()
    thread.join()


def test_a_folder_that_cannot_be_held_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=rf"Not a directory while making {tmp_path / 'file/a'}"),
        store.exclusive(tmp_path / "file/a", wait=False),
    ):
        raise AssertionError
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.owner").symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match=rf"No space left on device while writing {tmp_path / 'a/.owner'}"),
        store.exclusive(tmp_path / "a", wait=False),
    ):
        raise AssertionError
    assert not store.held(tmp_path / "a")


def test_run_folders_are_named_by_their_experiment(tmp_path: Path) -> None:
    assert Run.named(tmp_path, "a", {"s": 1}).path == Run.named(tmp_path, "a", {"s": 1}).path
    assert Run.named(tmp_path, "a", {"s": 1}).path != Run.named(tmp_path, "a", {"s": 2}).path
    assert store.fingerprint(random) != store.fingerprint(margin)


def test_workspace_is_found_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.delenv("ALNB_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert store.workspace() == tmp_path
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path / "else"))
    assert store.workspace() == tmp_path / "else"


def test_a_move_to_another_module_changes_no_name_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    described = Protocol(5, 5, 2), STRATEGIES["margin"], STRATEGIES["vaal"]
    before = store.fingerprint(*described)
    for moved in (Protocol, STRATEGIES["margin"], type(STRATEGIES["vaal"])):
        monkeypatch.setattr(moved, "__module__", "alnb.a_room.another_file")
    assert store.fingerprint(*described) == before


def test_a_renamed_function_can_keep_its_name_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES["margin"], "manifest_name", "smallest_margin", raising=False)
    assert store.describe(STRATEGIES["margin"]) == "smallest_margin"


def test_lambdas_of_this_package_differ_by_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (lambda query: query.candidates[: query.n]), (lambda query: query.candidates[-query.n :])
    for function in (first, second):
        monkeypatch.setattr(function, "__module__", "alnb.a_room.a_file")
    assert store.fingerprint(first) != store.fingerprint(second)


def test_no_two_parts_of_an_experiment_have_one_name_on_disk() -> None:
    """Of the core's dataclasses, and of its functions that take the same: these could stand in the same place of a manifest."""
    describe, names = sys.modules["alnb.store.describe"], dict[object, set[str]]()  # `store.describe` is a function
    rooms = (alnb.store, alnb.data, alnb.learn, alnb.acquire, alnb.loop)
    for module in (m.name for room in rooms for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")):
        for thing in vars(importlib.import_module(module)).values():
            if getattr(thing, "__module__", None) != module or getattr(thing, "__name__", "_").startswith("_"):
                continue
            if dataclasses.is_dataclass(thing):
                names.setdefault(describe.name(thing), set()).add(module)
            elif inspect.isfunction(thing):
                required = tuple(str(p.annotation) for p in inspect.signature(thing).parameters.values() if p.default is p.empty)
                names.setdefault((describe.name(thing), required), set()).add(module)
    assert len(names) > 150 and {key: modules for key, modules in names.items() if len(modules) > 1} == {}
