"""Descriptions: values as plain JSON, fingerprints, and the environment that a result was computed in."""

import functools
import hashlib
import inspect
import json
import math
import os
import platform
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch

from alnb.store.files import Json

SETTINGS = bool | int | float | str | list | tuple | dict | torch.Tensor | Path  # what a global of a function may be


def describe(value: Any) -> Any:
    """`value` as plain JSON, the same for the same experiment in every process.

    A dataclass becomes its fields, without those whose metadata say ``"result": False``. A function becomes its name and what it encloses;
    a lambda, or a function of another package, also a digest of its source. A tensor becomes its shape and digest; what has a
    `fingerprint`, such as images and backbones, becomes that.

    Raises:
        TypeError: a kind of value that has no such description.
    """
    match value:
        case float() if value.is_integer():
            return int(value)  # 20 and 20.0 are the same setting
        case float() if not math.isfinite(value):
            return str(value)  # JSON has no infinity
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
        case object(fingerprint=str(digest_of_content)):
            return {"kind": type(value).__name__, "fingerprint": digest_of_content}
    if is_dataclass(value):
        return {
            "kind": describe(type(value)),
            **{f.name: describe(getattr(value, f.name)) for f in fields(value) if f.metadata.get("result", True)},
        }
    return describe(value.item()) if isinstance(value, numpy.generic) else _describe_function(value)


def name(thing: Any) -> str:
    """The name of a class or function in manifests.

    For this package it is the qualified name without the module ("Protocol", "margin"), so that a file may move and no run is orphaned. A
    class or function that is renamed keeps its earlier name in the attribute `manifest_name`.
    """
    if _ours(thing):
        return str(vars(thing).get("manifest_name", thing.__qualname__))
    return f"{thing.__module__}.{thing.__qualname__}"


def _describe_type(kind: type) -> Any:
    if not (_ours(kind) or kind.__module__ == "builtins" or kind.__module__.startswith("torch.")):
        with suppress(OSError, TypeError):
            return {"class": name(kind), "source": hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()}
    return name(kind)


def _ours(thing: Any) -> bool:
    """True for code of this package: its version is the commit. Other code may change between two runs: its source is described too."""
    return bool(thing.__module__.partition(".")[0] == "alnb")


def _describe_function(function: Any) -> Any:
    if not inspect.isfunction(function):
        kind = f"a {type(function).__name__} ({repr(function)[:100]})"
        raise TypeError(f"{kind} cannot be written into a manifest: use a function, a functools.partial or a dataclass")
    variables = inspect.getclosurevars(function)
    described: Json = {"function": name(function)}
    if variables.nonlocals:
        described["enclosed"] = describe(dict(sorted(variables.nonlocals.items())))
    if not _ours(function) or function.__name__ == "<lambda>":  # all lambdas of a place have one name
        described["source"] = hashlib.sha256(_source(function)).hexdigest()
        described["defaults"] = describe([function.__defaults__, function.__kwdefaults__])
        # the names of modules, functions and classes stand in the source already
        settings = {name: value for name, value in sorted(variables.globals.items()) if isinstance(value, SETTINGS)}
        described["globals"] = describe(settings)
    return described if len(described) > 1 else described["function"]


def _source(function: Any) -> bytes:
    """What distinguishes two functions: their text. Of lambdas also the compiled code: several may stand on one line."""
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
    """Hexadecimal sha256 of a tensor's elements, on any device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()  # type: ignore[arg-type]  # an array is a buffer


def fingerprint(*values: Any) -> str:
    """Hexadecimal sha256 of the description of `values`."""
    text = json.dumps({"values": describe(values)}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def environment(device: torch.device) -> Json:
    """What the last bits of a result may depend on besides the experiment: versions, processor, threads; and the commit.

    The processor is described by the instruction set of torch's kernels, and by that of oneDNN where a variable limits it.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    kernels = f"{torch.backends.cpu.get_cpu_capability()}{f', oneDNN at most {limit.upper()}' if limit else ''}"
    on_cpu = {"cpu": f"{platform.machine()} {kernels}", "threads": torch.get_num_threads()}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "alnb": version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **({} if device.type == "cuda" else on_cpu),
        "commit": commit(),
    }


def version() -> str:
    """The version of this package: the installed one; if it is only a folder on the path, that of its pyproject.toml."""
    try:
        return metadata.version("alnb")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else "unknown"


@functools.cache
def commit() -> str | None:
    """The commit of this package's checkout, with "+" if tracked files were changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **options)  # another project's checkout does not count
        return str(subprocess.run([*git, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"], **options).stdout.strip())
    return None


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """One line for each field in which two descriptions differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key, "(absent)"), now.get(key, "(absent)"), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where}: the folder has {before!r}, you ask for {now!r}"
