"""The lazy k-center against a textbook greedy and against scikit-activeml's CoreSet, on the CPU with two threads.

Both sides of a ratio get the same features, the same covered points and the same n, one after the other, several times over.
Textbook greedy: one Gram matrix product for the distances to what is covered, then a matrix-vector product and a running minimum per pick.

"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from alnb.acquire import cover
from benchmarks.made import STREAM, clusters, extra_memory

N, D, COVERED, PICKS = 50_000, 512, 1_000, 1_000
REPEATS = 3
FAST, CLOSE, SMALL = 15.0, 1e-4, 1.2  # the bars: times faster; relative difference of radii; extra memory over features
CORE_SET_PICKS = (21, 121)  # what scikit-activeml is timed with where all picks would take longer than LIMIT
LIMIT = 180.0  # seconds

CLUSTERED = "50 Gaussian clusters of standard deviations 0.1 to 1 through ReLU, as pooled features of a ResNet are"
GAUSSIAN = "one standard Gaussian"


def clustered() -> Tensor:
    return clusters(N, D, 50, STREAM / "clustered", (0.1, 1.0))


def gaussian() -> Tensor:
    return torch.randn(N, D, generator=(STREAM / "gaussian").generator())


def labelled() -> Tensor:
    chosen = torch.randperm(N, generator=(STREAM / "covered").generator())[:COVERED]
    return torch.zeros(N, dtype=torch.bool).index_fill_(0, chosen, True)


def nearest_covered(features: Tensor, norms: Tensor, covered: Tensor) -> Tensor:
    """Squared distances [N] to the nearest covered point by Gram products; -inf for covered points."""
    centres, known = features[covered], norms[covered]
    square = torch.cat([torch.addmm(known, rows, centres.T, alpha=-2).amin(1) for rows in features.split(8192)]).add_(norms)
    return square.masked_fill_(covered, -torch.inf)


def textbook(features: Tensor, covered: Tensor, n: int) -> Tensor:
    """k-center greedy with one full scan per pick, without needless temporaries."""
    norms = torch.linalg.vector_norm(features, dim=1).square_()
    nearest, buffer, picks = nearest_covered(features, norms, covered), torch.empty_like(norms), []
    for _ in range(n):
        pick = int(nearest.argmax())
        picks.append(pick)
        torch.addmv(norms, features, features[pick], alpha=-2, out=buffer).add_(norms[pick])
        torch.minimum(nearest, buffer, out=nearest)
        nearest[pick] = -torch.inf
    return torch.tensor(picks)


def radii(features: Tensor, covered: Tensor, picks: Tensor) -> Tensor:
    """The covering radius [n] after every pick. Centred, so that the Gram form keeps its digits."""
    features = features - features.mean(0)
    norms = torch.linalg.vector_norm(features, dim=1).square_()
    nearest, buffer, largest = nearest_covered(features, norms, covered), torch.empty_like(norms), []
    for pick in picks.tolist():
        torch.addmv(norms, features, features[pick], alpha=-2, out=buffer).add_(norms[pick])
        torch.minimum(nearest, buffer, out=nearest)
        largest.append(nearest.amax())
    return torch.stack(largest).clamp_(min=0).sqrt_()


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def against_textbook(name: str, what: str, features: Tensor, covered: Tensor) -> Iterator[dict[str, Any]]:
    cover.kcenter(features, covered, 8)
    ours, theirs = [], []
    for _ in range(REPEATS):
        taken, picks = seconds(lambda: cover.kcenter(features, covered, PICKS))
        ours.append(taken)
        taken, expected = seconds(lambda: textbook(features, covered, PICKS))
        theirs.append(taken)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    yield {
        "name": f"k-center: speed against textbook greedy, {name} features",
        "ratio": ratio,
        "bar": FAST,
        "sense": ">=",
        "detail": f"{what}; {N} x {D} float32, {COVERED} covered, {PICKS} picks, {torch.get_num_threads()} threads; median of {REPEATS}: "
        f"{statistics.median(ours):.3f} s against {statistics.median(theirs):.2f} s",
    }
    ours_radii, theirs_radii = radii(features, covered, picks), radii(features, covered, expected)
    yield {
        "name": f"k-center: relative difference of covering radii from textbook greedy, {name} features",
        "ratio": float(((ours_radii - theirs_radii) / theirs_radii).abs().amax()),
        "bar": CLOSE,
        "sense": "<=",
        "detail": f"the largest over {PICKS} picks, of which {int((picks == expected).sum())} are the same point at the same place",
    }


def against_core_set(features: Tensor, covered: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"name": "k-center: speed against skactiveml.pool.CoreSet", "ratio": float("nan"), "bar": FAST, "sense": ">="}
    try:
        from skactiveml.pool import CoreSet  # type: ignore[import-not-found]
    except ImportError:
        return row | {"detail": "not measured: scikit-activeml is missing; pip install -e .[test]"}
    known = torch.where(covered, 0.0, torch.nan).numpy()

    def theirs(n: int) -> float:
        return seconds(lambda: CoreSet(random_state=0).query(features.numpy(), known, batch_size=n))[0]

    few, many = theirs(CORE_SET_PICKS[0]), theirs(CORE_SET_PICKS[1])
    expected = few + (many - few) / (CORE_SET_PICKS[1] - CORE_SET_PICKS[0]) * (PICKS - CORE_SET_PICKS[0])
    n = PICKS if expected < LIMIT else CORE_SET_PICKS[1]
    reference = theirs(n) if n == PICKS else many
    ours = statistics.median(seconds(lambda: cover.kcenter(features, covered, n))[0] for _ in range(REPEATS))
    why = "" if n == PICKS else f" (all {PICKS} picks would take it about {expected:.0f} s)"
    return row | {
        "ratio": reference / ours,
        "detail": f"{CLUSTERED}; {N} x {D} float32, {COVERED} covered, {n} picks on both sides{why}: {ours:.3f} s against one run of "
        f"{reference:.1f} s",
    }


PREPARE = """
from alnb.acquire import cover
from benchmarks import kcenter
cover.kcenter(torch.rand(2000, kcenter.D), torch.arange(2000) < 100, 50)  # what torch allocates once and for all
features, covered = kcenter.gaussian(), kcenter.labelled()
"""


def memory() -> dict[str, Any]:
    """Memory of a query beyond its features."""
    size = 4 * N * D
    extra, failure = extra_memory(PREPARE, f"cover.kcenter(features, covered, {PICKS})")
    detail = f"peak resident size of a fresh process during the query less its size before, over {size / 1e6:.0f} MB; {GAUSSIAN}"
    name = "k-center: extra peak memory over the features"
    return {"name": name, "ratio": extra / size, "bar": SMALL, "sense": "<=", "detail": failure or detail}


def measure() -> Iterator[dict[str, Any]]:
    """Rows for the table of benchmarks: a few minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    try:
        covered = labelled()
        yield from against_textbook("Gaussian", GAUSSIAN, gaussian(), covered)
        features = clustered()
        yield from against_textbook("clustered", CLUSTERED, features, covered)
        yield against_core_set(features, covered)
        yield memory()
    finally:
        torch.set_num_threads(threads)
