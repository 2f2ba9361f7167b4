"""t-SNE layouts of features, computed once and cached."""

from pathlib import Path

import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

from alnb import store
from alnb.store import stop

COMPONENTS = 50  # principal components in which neighbours are looked up
PERPLEXITY = 30.0  # van der Maaten and Hinton 2008: typical values are between 5 and 50
PER_PERPLEXITY = 3  # neighbours of each point that t-SNE uses, per unit of perplexity
NEIGHBOURS = "exact"  # openTSNE's default, Annoy, returns others with another number of threads
EARLY, LATER = 250, 500  # iterations with and without early exaggeration: openTSNE's defaults


def layout(features: Tensor, *, perplexity: float = PERPLEXITY, seed: int = 0, cache: Path | str) -> Tensor:
    """Positions f64 [N,2], on the CPU, of `features` [N,D]. They are cached below `cache`, for each set of arguments.

    Features are projected on their `COMPONENTS` largest principal components, and positions start from the first two. openTSNE uses as
    many threads as torch; their number does not change the layout. Memory: O(N (D + perplexity)).

    perplexity: about the number of neighbours that stay close to each point.
    Raises ValueError for features that are not [N,D] with D > 1, not finite in f32 or all equal, or too few of them for the perplexity.
    Source: van der Maaten and Hinton 2008; Poličar et al. 2024 (openTSNE), with its interpolation in place of the N² forces.
    """
    features = features.detach().cpu()
    _check(features, perplexity)
    settings = {"components": COMPONENTS, "neighbours": NEIGHBOURS, "iterations": [EARLY, LATER]}
    experiment = store.describe({"features": features, "perplexity": perplexity, "seed": seed, **settings})
    result = store.cached(cache, "tsne", experiment, torch.device("cpu"), lambda _: {"layout": _embed(features.float(), perplexity, seed)})
    positions: Tensor = result["layout"]
    return positions


def suited(n: int) -> float:
    """A perplexity for `n` points: 30, or less if there are too few points for that."""
    return min(PERPLEXITY, (n - 1) / PER_PERPLEXITY)


def _embed(features: Tensor, perplexity: float, seed: int) -> Tensor:
    from openTSNE import TSNE  # a machine with a GPU may lack it, and draws no layout

    threads, x = torch.get_num_threads(), features.numpy()
    # `n_jobs` does not limit thread pools; and BLAS rounds differently with more threads, which t-SNE amplifies to another layout
    with threadpool_limits({"blas": 1, "openmp": threads}):
        if min(x.shape) > COMPONENTS:
            x = PCA(COMPONENTS, random_state=seed).fit_transform(x)
        tsne = TSNE(
            perplexity=perplexity, initialization="pca", neighbors=NEIGHBOURS, early_exaggeration_iter=EARLY, n_iter=LATER,
            random_state=seed, n_jobs=threads, callbacks=lambda *_: stop.check("within the layout"), callbacks_every_iters=10,
        )  # fmt: skip
        return torch.tensor(tsne.fit(x).__array__(), dtype=torch.float64)


def _check(features: Tensor, perplexity: float) -> None:
    if features.ndim != 2 or features.shape[1] < 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be float [N, D] with D of at least 2, but are {features.dtype} {list(features.shape)}: flatten them first"
        )
    bad = (~features.float().isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"features[{int(bad[0])}] is not finite in float32 ({len(bad)} such rows): look at the net that made them")
    most = (len(features) - 1) / PER_PERPLEXITY
    if not 1 <= perplexity <= most:
        remedy = f"choose from 1 to {most:.4g}" if most >= 1 else f"give at least {PER_PERPLEXITY + 1} points"
        raise ValueError(f"perplexity is {perplexity:g}, but there are {len(features)} points: {remedy}")
    if bool((features == features[0]).all()):
        raise ValueError(f"all {len(features)} features are equal, so that no point is nearer than another: look at the net that made them")
