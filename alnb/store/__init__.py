"""Where a run is stored: atomic writes, files that prove themselves, fingerprints, the run folder and its manifest."""

from __future__ import annotations

import errno
import functools
import hashlib
import inspect
import io
import json
import os
import platform
import subprocess
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import Field, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import torch

from alnb.store import stop as pause

Json = dict[str, Any]
CELL = "ALNB_CELL"  # in a cell of a sweep: that cell's folder
CODE = "ALNB_CODE"  # there: what `package` was when the sweep began
RUNS = "runs.txt"  # there: the run folders that the cell has worked on or found complete, relative to it, one a line
LOCK_SECONDS = "ALNB_LOCK_SECONDS"  # how long to wait for a run that is in use, as by a process that is being killed; not set: not at all
RECOMPUTE = "restore it from a copy, or delete that file to have it computed again"
FORMAT = 1
"""Version of the record format: what `manifest.json` and `record.json` hold, by which names. 0: a manifest without the field `format`, as
all had before there was one; it says the same as 1, and `read_json` knows its sha256. A change that readers must know of raises it, and
`Run.manifest` and `Run.records` then bring what is older up to it in memory, a function from each number to the next; what is stored
stays as it was written."""


class Corrupted(Exception):
    """A stored file is truncated, altered or missing where it must be."""


class Locked(Exception):
    """Another process works on the same folder."""


class NewerFormat(Exception):
    """A run folder was written by a later version of this package, in a format that this one does not know."""


class CodeChanged(Exception):
    """In a cell of a sweep: this package, or the notebook, is another than when the sweep began."""


class ManifestDiffers(Exception):
    """A run folder holds another experiment than the one that was to be continued in it."""


@runtime_checkable
class Fingerprinted(Protocol):
    """Anything large that can name its content by a digest: images, a backbone."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the content."""


# ---- places -------------------------------------------------------------------------------------------------------------------


def workspace() -> Path:
    """The project folder: $ALNB_WORKSPACE, else the nearest ancestor of the current folder that has `notebooks/` and
    `pyproject.toml`, else the current folder.
    """
    if "ALNB_WORKSPACE" in os.environ:
        return Path(os.environ["ALNB_WORKSPACE"]).expanduser().resolve()
    here = Path.cwd()
    candidates = (p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "pyproject.toml").is_file())
    return next(candidates, here)


def runs_folder(paper: str, scale: str, runs: Path | str = "") -> Path:
    """Where a paper's runs are: below `runs`, else in runs/ of the project, those of scale paper in its part that git keeps."""
    kept = workspace() / "runs" / ("paper" if scale == "paper" else "")
    return Path(runs or kept) / paper


# ---- atomic files that prove themselves ---------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds, at every instant and after a power cut, either the old content or the new.

    Raises:
        OSError: the disk is full or not writable; `path` is as it was and nothing half-written stays behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        reason = f"{error.strerror or error} while writing {path}: nothing that was complete is lost; free some space and start again"
        raise OSError(error.errno, reason) from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digest(content: Json) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


SHA256, END = b'"sha256": "', b'"\n}\n'  # how the last entry of a file begins and ends


def encode(content: Json) -> bytes:
    """`content` as a JSON text whose last entry is the sha256 of all the text before that."""
    head, key, _ = json.dumps({**content, "sha256": ""}, indent=1, allow_nan=False).encode().rpartition(SHA256)
    return head + key + hashlib.sha256(head).hexdigest().encode() + END


def write_json(path: Path, content: Json) -> None:
    """Write `content` atomically, as `encode` makes it a text."""
    write_atomic(path, encode(content))


def read_json(path: Path, remedy: str = RECOMPUTE) -> Json:
    """What `write_json` wrote, also what it wrote before format 1, when the sha256 was that of the content in a certain order.

    Raises:
        Corrupted: the file is truncated, or its content does not have the sha256 that it states.
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        content: Json = json.loads(text)
        stated = content.pop("sha256")
        head, _, tail = text.rpartition(SHA256)
        whole = tail == stated.encode() + END and hashlib.sha256(head).hexdigest() == stated
        if not whole and _digest(content) != stated:
            raise ValueError(f"it states the sha256 {stated}, which is not its own")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Corrupted(f"{path} is truncated or was altered ({error}); {remedy}") from error
    return content


def append_line(path: Path, entry: Json) -> None:
    """Add one entry to a log of one entry a line, durable on disk before this returns. The caller is alone with the log, see `exclusive`.

    A last line that a kill cut in two was never acknowledged, and is removed first.

    Raises:
        OSError: the disk is full or not writable; the log is as it was.
    """
    new = not path.exists()
    with open(path, "ab+", buffering=0) as file:  # unbuffered: nothing is left to be written when it is closed
        whole, line = _whole(file), _line(entry)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.truncate(whole)
            reason = f"{error.strerror or error} while writing {path}: what it held is kept; free some space and do it again"
            raise OSError(error.errno, reason) from error
    if new:
        sync_folder(path.parent)


def read_lines(path: Path, remedy: str) -> list[Json]:
    """The entries of a log that `append_line` wrote, none where there is no such file; a last line cut in two is left aside.

    Raises:
        Corrupted: a line is damaged; the message names it, and the `remedy`.
    """
    content = path.read_bytes() if path.exists() else b""
    entries = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(keepends=True), start=1):
        try:
            entry: Json = json.loads(line)
            del entry["crc"]
            if _line(entry) != line:
                raise ValueError("its checksum is wrong")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupted(f"{path}, line {number} is damaged ({line[:60]!r}); {remedy}") from error
        entries.append(entry)
    return entries


def _line(entry: Json) -> bytes:
    """An entry as a line with its own checksum."""
    text = json.dumps(entry)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'.encode()


def _whole(file: IO[bytes]) -> int:
    """Bytes of the complete lines, looked for from the end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0


def write_tensors(path: Path, content: Json) -> None:
    """Write `content` (nested dicts of tensors and plain values) atomically as an ordinary torch file.

    Memory: O(size of content), since the file is made in memory so that it can be written in one piece.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Json:
    """What `write_tensors` wrote, on `device`. The checksums of the file's zip members, which torch does not look at, are verified.

    Raises:
        Corrupted: the file is missing, truncated or altered.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"checksum of its member {bad} is wrong")
        loaded: Json = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise Corrupted(f"{path} is missing; {RECOMPUTE}") from error
    except Exception as error:  # zipfile and torch.load raise a dozen kinds on damaged bytes; EINVAL is zipfile's at an altered offset
        if isinstance(error, OSError | MemoryError) and getattr(error, "errno", None) != errno.EINVAL:
            raise  # not allowed, no memory, a broken disk: the file may well be whole
        raise Corrupted(f"{path} is truncated or was altered ({error}); {RECOMPUTE}") from error
    return _moved(loaded, torch.device(device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, _moved(item, device)) for key, item in value.items())
    return [_moved(item, device) for item in value] if isinstance(value, list) else value


# ---- descriptions and fingerprints --------------------------------------------------------------------------------------------


def describe(value: Any) -> Any:
    """`value` as plain JSON that is the same for the same experiment, in every process.

    Dataclasses become their fields, functions their name (with a digest of their source where they are not this package's, and what
    they enclose), tensors their shape and digest, `Fingerprinted` things their fingerprint.

    Raises:
        TypeError: a kind of value that has no such description.
    """
    match value:
        case float() if value.is_integer():
            return int(value)  # 20 and 20.0 are the same setting
        case None | bool() | int() | float() | str():
            return value
        case Path() | torch.dtype() | torch.device():
            return str(value)
        case Mapping():
            return {str(key): describe(item) for key, item in value.items()}
        case list() | tuple():
            return [describe(item) for item in value]
        case torch.Tensor():
            return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest(value)}
        case set() | frozenset():
            return sorted(map(describe, value), key=repr)
        case functools.partial():
            return {"function": describe(value.func), "args": describe(value.args), "keywords": describe(value.keywords)}
        case type():
            return _describe_type(value)
        case Fingerprinted():
            return {"kind": type(value).__name__, "fingerprint": value.fingerprint}
    if is_dataclass(value):
        return {"kind": describe(type(value)), **{f.name: describe(getattr(value, f.name)) for f in fields(value) if _told(f, value)}}
    if inspect.isfunction(value):
        return _describe_function(value)
    raise TypeError(
        f"a {type(value).__name__} ({repr(value)[:100]}) cannot be written into a manifest: use a function, a functools.partial or a "
        "dataclass"
    )


def _told(one: Field[Any], value: Any) -> bool:
    """Whether a field belongs in the description: not where it changes no result (metadata "result" False), nor where it came to its class
    later (metadata "added") and has its default: runs from before stay what they were.
    """
    return one.metadata.get("result", True) and not (one.metadata.get("added", False) and getattr(value, one.name) == one.default)


def name(thing: Any) -> str:
    """The name of a class or function in manifests.

    For this package it is the qualified name without the module ("Protocol", "margin"), so that a file may move and no run is orphaned. A
    class or function that is renamed keeps its earlier name in the attribute `manifest_name`.
    """
    if _ours(thing):
        return str(vars(thing).get("manifest_name", thing.__qualname__))
    return f"{thing.__module__}.{thing.__qualname__}"


def _describe_type(kind: type) -> Any:
    if _ours(kind) or kind.__module__ == "builtins" or kind.__module__.startswith("torch."):
        return name(kind)
    with suppress(OSError, TypeError):
        return {"class": name(kind), "source": hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()}
    return name(kind)


def _ours(thing: Any) -> bool:
    """Of this package: the commit tells what it was. What is not may change between two runs, and its source is looked at."""
    return bool(thing.__module__.partition(".")[0] == "alnb")


def _describe_function(function: Any) -> Any:
    variables = inspect.getclosurevars(function)
    described: Json = {"function": name(function)}
    if variables.nonlocals:
        described["enclosed"] = describe(dict(sorted(variables.nonlocals.items())))
    if not _ours(function):
        described["source"] = hashlib.sha256(_source(function)).hexdigest()
        described["defaults"] = describe([function.__defaults__, function.__kwdefaults__])
        values = {name: value for name, value in sorted(variables.globals.items()) if _is_plain(value)}
        described["globals"] = describe(values)
    return described if len(described) > 1 else described["function"]


def _is_plain(value: Any) -> bool:
    """Whether a global that a function uses is a setting, not a module, a function or a class, whose names stand in the source."""
    return isinstance(value, bool | int | float | str | list | tuple | dict | torch.Tensor | Path)


def _source(function: Any) -> bytes:
    """What tells two functions apart: their text; of lambdas, of which several may stand on one line, the compiled code as well."""
    code, text = function.__code__, ""
    with suppress(OSError):  # typed at a prompt: there is no file to read it from
        text = inspect.getsource(function)
    return text.encode() if text and function.__name__ != "<lambda>" else repr((text, _compiled(code))).encode()


def _compiled(code: Any) -> Any:
    constants = [
        _compiled(c) if inspect.iscode(c) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in code.co_consts
    ]
    return code.co_code, code.co_names, constants


def digest(tensor: torch.Tensor) -> str:
    """Hexadecimal sha256 of a tensor's elements, wherever it lies."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()  # type: ignore[arg-type]  # an array is a buffer


def fingerprint(*values: Any) -> str:
    """Hexadecimal sha256 of the description of `values`."""
    return _digest({"values": describe(values)})


def environment(device: torch.device) -> Json:
    """What the last bits of a result may depend on, beside the experiment: versions, processor, threads; and the commit."""
    on_cpu = {"cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "alnb": version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **({} if device.type == "cuda" else on_cpu),
        "commit": commit(),
    }


def version() -> str:
    """Of this package: as installed, or, where it is only a folder on the path, as its pyproject.toml says."""
    try:
        return metadata.version("alnb")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else "unknown"


@functools.cache
def package() -> str:
    """Version and digest of this package's own code: the same on two machines that would do the same."""
    files = sorted(p for p in Path(__file__).parents[1].rglob("*.py"))
    parts = {p.relative_to(Path(__file__).parents[1]).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return f"{version()} {_digest(parts)[:10]}"


@functools.cache
def commit() -> str | None:
    """The commit of the checkout this package lies in, with "+" where tracked files were changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **options)  # somebody else's checkout does not count
        return str(subprocess.run([*git, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"], **options).stdout.strip())
    return None


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """One line for each field in which two descriptions differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key, "(absent)"), now.get(key, "(absent)"), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where}: the folder has {before!r}, you ask for {now!r}"


# ---- the run folder -----------------------------------------------------------------------------------------------------------


class Run:
    """A folder that holds one run: `manifest.json` and, for each finished cycle, `cycle_KKK/record.json`, written last.

    Looking at a run needs no lock; `lock` is held by the one process that adds to it.
    """

    def __init__(self, path: Path | str) -> None:
        """`path` need not exist yet."""
        self.path = Path(path)

    @classmethod
    def named(cls, root: Path | str, slug: str, experiment: Json) -> Run:
        """The run of `experiment` below `root`: its folder's name is `slug` and a digest of the experiment's description."""
        return cls(Path(root) / f"{slug}-{fingerprint(experiment)[:10]}")

    def __repr__(self) -> str:
        """As it is made."""
        return f"Run({str(self.path)!r})"

    def folder(self, cycle: int) -> Path:
        """The folder of one cycle."""
        return self.path / f"cycle_{cycle:03d}"

    @property
    def manifest(self) -> Json | None:
        """What runs here (`experiment`) and what it began on (`environment`); None before the first claim.

        Raises:
            Corrupted: it is damaged, or missing beside finished cycles.
            NewerFormat: it is of a format that this version does not know; see `FORMAT`.
        """
        path = self.path / "manifest.json"
        if path.exists():
            found = read_json(path, f"restore it from a copy, or move {self.path} away to begin anew")
            self.check_format(found)
            return found
        if any(self.path.glob("cycle_*/record.json")):
            raise Corrupted(
                f"{path} is missing, yet there are finished cycles; restore it from a copy, or move {self.path} away to begin anew"
            )
        return None

    def check_format(self, manifest: Json) -> None:
        """Raises: NewerFormat where the manifest is of a later format than `FORMAT`."""
        found = manifest.get("format", 0)
        if type(found) is not int or found > FORMAT:
            author = manifest.get("environment", {}).get("alnb", "a later version")
            raise NewerFormat(
                f"{self.path} has record format {found!r}, written by alnb {author}; alnb {version()} knows formats up to "
                f"{FORMAT}: update it (`git pull` in its checkout, then `pip install -c constraints.txt -e .`), and call again"
            )

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
                    f"{self.folder(expected) / 'record.json'} is missing, yet cycle {number} is there; "
                    "restore it, or delete the later cycles too"
                )
        remedy = "restore it from a copy, or delete its cycle_ folder and all later ones to have them computed again"
        return [read_json(self.folder(number) / "record.json", remedy) for number in numbers]

    def claim(self, experiment: Json) -> None:
        """Make sure that the manifest, if there is one, describes the same experiment.

        Raises:
            ManifestDiffers: it does not; the message names every field that differs.
        """
        manifest = self.manifest
        lines = [] if manifest is None else list(differences(manifest["experiment"], experiment))
        if lines:
            raise ManifestDiffers(
                f"{self.path} holds another experiment:\n  "
                + "\n  ".join(lines)
                + "\nGo back to those values, or give the new experiment a folder of its own."
            )

    def begin(self, experiment: Json, device: torch.device) -> tuple[str, ...]:
        """Called with the lock held, before anything is added: write the manifest, or make sure that the environment is the same.

        Returns:
            Notes for the records to come: in what the environment differs, the commit included.
        Raises:
            ManifestDiffers: versions, device or threads are not those that the finished cycles were computed with, and
                $ALNB_OTHER_ENVIRONMENT is not "1". The commit may differ.
        """
        self.claim(experiment)
        for part in self.path.glob("**/.*.part"):
            part.unlink(missing_ok=True)
        now = environment(device)
        manifest = self.manifest
        if manifest is None:
            write_json(self.path / "manifest.json", {"format": FORMAT, "experiment": experiment, "environment": now})
            return ()
        lines = list(differences(manifest["environment"], now))
        serious = [line for line in lines if not line.startswith("commit:")]
        if serious and os.environ.get("ALNB_OTHER_ENVIRONMENT") != "1":
            raise ManifestDiffers(
                f"{self.path} was begun in another environment, and results may differ in the last bits:\n  "
                + "\n  ".join(serious)
                + "\nContinue it there, use a new folder, or set ALNB_OTHER_ENVIRONMENT=1: the records then say so in their notes."
            )
        return tuple(lines)

    def announce(self) -> None:
        """In a cell of a sweep, say that its result is made of this run; see `sweeps.cell`.

        Raises:
            CodeChanged: this process has another code than the sweep.
        """
        if CELL in os.environ:
            began = os.environ.get(CODE, package())
            if package() != began:
                raise CodeChanged(
                    f"alnb in {Path(__file__).parents[1]} is {package()}, it was {began} when the sweep began: nothing was computed; "
                    "start it again"
                )
            cell = Path(os.environ[CELL]).resolve()
            with open(cell / RUNS, "a", encoding="utf-8") as file:
                file.write(f"{os.path.relpath(self.path.resolve(), cell)}\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against every other process and every other generator in this one.

        Raises:
            Locked: somebody holds it, and for $ALNB_LOCK_SECONDS on, if that is set; the message names the process.
        """
        with exclusive(self.path, wait=float(os.environ.get(LOCK_SECONDS, 0))):
            yield


@contextmanager
def exclusive(folder: Path, *, wait: bool | float) -> Iterator[None]:
    """Hold `folder` against all others; the system lets go of it when the process ends, however it ends.

    Args:
        wait: for as long as it takes, not at all, or for so many seconds.
    Raises:
        Locked: somebody else holds it, and did so until the wait was over.
        pause.TimeIsUp: somebody was still holding it when this process, waiting for as long as it takes, was asked to stop.
        OSError: it cannot be written to.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} while making {folder}: choose a folder that you may write to") from error
    owner, me = folder / ".owner", f"{os.getpid()} on {platform.node()}"
    lock = filelock.FileLock(folder / ".lock", timeout=-1 if wait is True else float(wait))
    try:
        lock.acquire(cancel_check=pause.requested if wait is True else None)
    except filelock.Timeout as error:
        who = owner.read_text() if owner.exists() else "unknown"
        if wait is True:
            raise pause.TimeIsUp(f"stopped as asked for, while process {who} was using {folder}") from error
        here = " (this very process: close what uses it, or restart the kernel)" if who == me else ""
        raise Locked(f"{folder} is in use by process {who}{here}; wait until it has ended, or stop it") from error
    try:
        try:
            owner.write_text(me)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror} while writing {owner}: nothing was begun; free some space and start again"
            ) from error
        yield
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether somebody holds `folder`; nothing in it is changed."""
    import filelock

    lock = folder / ".lock"
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


def kept(
    cache: Path | str,
    slug: str,
    experiment: Json,
    device: torch.device,
    compute: Callable[[Path], dict[str, Any]],
    leftovers: Iterable[str] = (),
) -> dict[str, Any]:
    """What `compute` gives for `experiment`, once: written below `cache`, in a folder named as runs are, and read from there ever after.

    Of two processes that want the same, the second waits for the first.

    Args:
        compute: called with the folder; gives tensors and plain values by name.
        leftovers: files of the folder that are needed no more when it is done, such as checkpoints.

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
