"""Random streams as a function of where you are (seed, purpose, cycle, step), never of how you got there.

A run that is killed and continued draws the same numbers as one that was not, and no generator state is ever saved.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_one_at_a_time = threading.RLock()
BITS = 63  # torch.Generator.manual_seed takes a signed 64-bit integer


def integer(seed: int, *where: str | int) -> int:
    """A whole number in [0, 2**63) that depends on `seed` and on every element of `where`, and on nothing else."""
    digest = hashlib.blake2b(repr((int(seed), *where)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - BITS)


def generator(seed: int, *where: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for the place `where`, as in ``generator(seed, "augment", cycle, step)``."""
    return torch.Generator(device).manual_seed(integer(seed, *where))


@contextmanager
def scope(seed: int, *where: str | int) -> Iterator[None]:
    """Within it torch's global generators are seeded from `where`; after it they are as they were before.

    For code that can only draw from them, such as the initialisers of `torch.nn`. They are the process's, so that a second thread waits.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _one_at_a_time, torch.random.fork_rng(devices=devices):
        torch.manual_seed(integer(seed, *where))
        yield
