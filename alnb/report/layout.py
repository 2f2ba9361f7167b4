"""t-SNE layouts of features, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.store import stop as pause

COMPONENTS = 50  # principal components that neighbours are looked for in
PERPLEXITY = 30.0  # van der Maaten and Hinton 2008: typical values are between 5 and 50
LEAST = 3  # neighbours that t-SNE looks at, per unit of perplexity
NEIGHBOURS = "exact"  # openTSNE's own choice, Annoy, finds others with another number of threads
EARLY, LATER = 250, 500  # iterations with and without early exaggeration: openTSNE's defaults


def layout(features: Tensor, *, perplexity: float = PERPLEXITY, seed: int = 0, cache: Path | str) -> Tensor:
    """Positions f64 [N,2], on the CPU, of `features` [N,D]; the same for the same arguments, read from below `cache` after the first call.

    Features are first projected on their `COMPONENTS` largest principal components; positions start from the first two. By openTSNE
    where it is installed, else, more slowly and elsewhere, by scikit-learn; which of the two is a part of what the result is kept by.
    It uses as many threads as torch does; to openTSNE their number changes nothing.

    Args:
        perplexity: about the number of neighbours that each point is kept together with.

    Raises:
        ValueError: features that are not [N,D] with D of at least 2, not finite in f32 or all equal, or too few of them for the perplexity.
        store.Corrupted: what was kept is damaged.

    Memory: O(N (D + perplexity)).
    Source: van der Maaten and Hinton 2008; Poličar et al. 2024 (openTSNE), with its interpolation in place of the N² forces.
    """
    features = features.detach().cpu()
    _check(features, perplexity)
    settings = {"components": COMPONENTS, "neighbours": NEIGHBOURS, "iterations": [EARLY, LATER], "by": _library()}
    experiment = store.describe({"features": features, "perplexity": perplexity, "seed": seed, **settings})

    def compute(folder: Path) -> dict[str, Any]:
        return {"layout": _embed(features.float(), perplexity, seed)}

    found: Tensor = store.kept(cache, "tsne", experiment, torch.device("cpu"), compute)["layout"]
    return found


def suited(n: int) -> float:
    """A perplexity for `n` points: the usual 30, less where that is too large for them."""
    return min(PERPLEXITY, (n - 1) / LEAST)


def _embed(features: Tensor, perplexity: float, seed: int) -> Tensor:
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn requires it

    fit, threads, x = _fit(perplexity, seed), torch.get_num_threads(), features.numpy()
    # `n_jobs` says nothing to the thread pools; and with more threads BLAS rounds otherwise, which t-SNE blows up to another layout
    with threadpool_limits({"blas": 1, "openmp": threads}):
        if min(x.shape) > COMPONENTS:
            x = PCA(COMPONENTS, random_state=seed).fit_transform(x)
        return torch.tensor(fit(x), dtype=torch.float64)


def _fit(perplexity: float, seed: int) -> Callable[[Any], Any]:
    options = {"perplexity": perplexity, "random_state": seed, "n_jobs": torch.get_num_threads()}
    if _library() == "openTSNE":
        from openTSNE import TSNE

        iterations = {"early_exaggeration_iter": EARLY, "n_iter": LATER}
        stop = {"callbacks": lambda *_: pause.check("within the layout"), "callbacks_every_iters": 10}
        found = TSNE(initialization="pca", neighbors=NEIGHBOURS, **iterations, **stop, **options)
        return lambda x: found.fit(x).__array__()
    from sklearn import manifold

    made: Callable[[Any], Any] = manifold.TSNE(init="pca", max_iter=EARLY + LATER, **options).fit_transform
    return made


def _library() -> str:
    from importlib.util import find_spec

    return "openTSNE" if find_spec("openTSNE") else "sklearn"


def _check(features: Tensor, perplexity: float) -> None:
    if features.ndim != 2 or features.shape[1] < 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be float [N, D] with D of at least 2, but are {features.dtype} {list(features.shape)}: "
            "pool or flatten them first"
        )
    bad = (~features.float().isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"features[{int(bad[0])}] is not finite in float32 ({len(bad)} such rows): look at the net that made them")
    most = (len(features) - 1) / LEAST
    if not 1 <= perplexity <= most:
        raise ValueError(
            f"perplexity is {perplexity:g}, of {len(features)} points: t-SNE looks at {LEAST} neighbours per unit of it; "
            + (f"choose from 1 to {most:.4g}" if most >= 1 else f"at least {LEAST + 1} points are needed")
        )
    if bool((features == features[0]).all()):
        raise ValueError(f"all {len(features)} features are equal: no point is nearer than another; look at the net that made them")
