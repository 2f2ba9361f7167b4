"""Who answers: oracles, each a callable ``(run, cycle, indices) -> labels i64 [n] | Pending``.

Truth lives here, and in the evaluation, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alnb.acquire import Strategy
from alnb.acquire.query import VOID, Query
from alnb.store import Run, append_line, exclusive, read_json, read_lines
from alnb.store import streams as rng


@dataclass(frozen=True)
class Pending:
    """A question that somebody still has to answer."""

    run: Run
    cycle: int
    indices: Tensor  # global, i64 [n]: the whole query, answered or not


Oracle = Callable[[Run, int, Tensor], "Tensor | Pending"]


def simulated(targets: Tensor) -> Oracle:
    """An oracle that knows `targets` i64 [N] and is always right."""

    def answer_truly(run: Run, cycle: int, indices: Tensor) -> Tensor:
        return targets[indices]

    return answer_truly


def noisy(targets: Tensor, rate: float, classes: int, seed: int = 0) -> Oracle:
    """An oracle that gives a wrong class, uniformly among the others, with probability `rate` in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"the error rate of an oracle is {rate}: it must lie in [0, 1]")

    def answer_with_errors(run: Run, cycle: int, indices: Tensor) -> Tensor:
        generator = rng.generator(seed, "oracle", cycle)
        shift = torch.randint(1, classes, indices.shape, generator=generator)
        wrong = torch.rand(indices.shape, generator=generator) < rate
        return (targets[indices] + shift * wrong) % classes

    return answer_with_errors


def human(run: Run, cycle: int, indices: Tensor) -> Tensor | Pending:
    """An oracle that waits for a person: `Pending` until every image of the query has its line in the cycle's answers (see `answer`)."""
    given = answers(run, cycle)
    if any(index not in given for index in indices.tolist()):
        return Pending(run, cycle, indices)
    return torch.tensor([given[index] for index in indices.tolist()], dtype=torch.int64)


def answer(run: Run, cycle: int, index: int, label: int | None) -> None:
    """Add one answer, durable on disk before this returns: a class from 0, VOID for "asked, cannot tell", None to take it back.

    Several windows may answer at once. A line that a kill cut in two was never acknowledged, and is removed by the next call.

    Raises:
        ValueError: `index` is not in the query of `cycle`, or `label` is no class.
    """
    folder = run.folder(cycle)
    path = folder / "answers.jsonl"
    _check_answer(folder / "query.json", index, label)
    with exclusive(folder, wait=True):
        append_line(path, {"index": index, "label": label})


def _check_answer(query: Path, index: int, label: int | None) -> None:
    if not isinstance(label, int | None) or (label is not None and label < VOID):
        raise ValueError(f"the answer to image {index} is {label!r}: it must be a class from 0, {VOID} for none, or None to take it back")
    if query.exists() and index not in read_json(query)["queried"]:
        raise ValueError(
            f"image {index} was not asked for in {query.parent.name} of {query.parent.parent}: `alnb.loop.pending` tells which were"
        )


def answers(run: Run, cycle: int) -> dict[int, int]:
    """The labels given so far in `cycle`, by global index; the last answer to an image counts.

    Raises:
        Corrupted: a line is damaged; the message names it.
    """
    lines = read_lines(run.folder(cycle) / "answers.jsonl", "delete that line and answer again: the others are kept")
    given = {line["index"]: line["label"] for line in lines}
    return {index: label for index, label in given.items() if label is not None}


def class_uniform(targets: Tensor, classes: int) -> Strategy:
    """A first query with as many images of each class as of any other, give or take one; which classes get the one more is random.

    It looks at the truth, as published protocols do, and so it is made here, by who holds the truth. Source: Bengar et al. 2021, section 4.

    Raises:
        ValueError: when called with fewer images than classes, or when a class has too few.
    """

    def class_uniform_start(query: Query) -> Tensor:
        if query.n < classes:
            raise ValueError(
                f"a class-uniform start with {query.n} labels cannot cover {classes} classes: ask for {classes} or more, or start at random"
            )
        extra = torch.randperm(classes, generator=query.rng)[: query.n % classes]
        counts = torch.full((classes,), query.n // classes).index_add(0, extra, torch.ones_like(extra))
        known = targets[query.candidates]
        chosen = []
        for label, count in enumerate(counts.tolist()):
            members = query.candidates[known == label]
            if len(members) < count:
                raise ValueError(
                    f"a class-uniform start wants {count} images of class {label}, the pool has {len(members)}: start smaller, or at random"
                )
            chosen.append(members[torch.randperm(len(members), generator=query.rng)[:count]])
        joined = torch.cat(chosen)
        return joined[torch.randperm(len(joined), generator=query.rng)]

    return class_uniform_start
