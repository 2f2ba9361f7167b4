"""Random numbers as a function of where they are drawn, never of what was drawn before.

A run that is killed and continued draws the same numbers as an undisturbed one, and no generator state is ever saved.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

_global_generators = threading.RLock()
BITS = 63  # torch.Generator.manual_seed takes a signed 64-bit integer


@dataclass(frozen=True)
class Stream:
    """The address of random numbers: ``Stream(0) / "cycle" / 3 / "order"``. Equal addresses give equal numbers, on every machine."""

    root: int = 0
    where: tuple[str | int, ...] = ()

    def __truediv__(self, place: str | int) -> Stream:
        """The stream one place further down."""
        return replace(self, where=(*self.where, place if isinstance(place, str) else int(place)))

    def __str__(self) -> str:
        """The address without the root seed, for messages: "cycle 3"."""
        return " ".join(map(str, self.where))

    @property
    def seed(self) -> int:
        """A whole number in [0, 2**63) that depends on the address and on nothing else."""
        digest = hashlib.blake2b(repr((int(self.root), *self.where)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> (64 - BITS)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator on `device`."""
        return torch.Generator(device).manual_seed(self.seed)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Seed torch's global generators for the block, and restore them after it.

        For code that can only draw from them, such as the initialisers of `torch.nn`. They belong to the process: a second thread waits.
        """
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with _global_generators, torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            yield
