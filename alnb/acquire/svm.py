"""A linear support vector machine on features, and the images nearest to its boundaries: the SVM min-margin of Bengar et al. 2021.

The paper (section 4) gives a linear kernel, C = 5, one versus rest, and asks for what lies in the margin area, closest to a boundary.
With more than two classes that has at least four readings, which are `RULES`, and the SVM itself has two, `estimator`. The solvers are
scikit-learn's. Scores are float64 on the CPU, so that no device's precision decides a query.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alnb.acquire.query import Query
from alnb.acquire.scores import top
from alnb.store.shapes import Float, Int

C = 5.0  # price of a violated margin; Bengar et al. 2021, section 4
SCALE = "l2"  # so that C = 5 means the same for every net; "standard" takes far longer to fit
ITERATIONS = {"linear_svc": 5_000, "one_vs_rest": 1_000_000}  # before the second attempt; they count different things
MORE = 10  # times as many in the second attempt
BLOCK = 4096  # rows widened to float64 and scored together
SCALES = ("l2", "standard", "none")

# ---- margins: pure functions of scores and weights -------------------------------------------------------------------------------


def top_two(scores: Float[Tensor, "M K"], weights: Float[Tensor, "K D"]) -> Float[Tensor, " M"]:
    """M1: the largest score minus the second largest; SMALL means near a boundary. The weights play no part.

    Raises ValueError where there are fewer than two classes.
    Source: the multi-class rule of google/active-learning.
    """
    first, second = _best_two(scores)
    return _of(scores, first) - _of(scores, second)


def nearest_hyperplane(scores: Float[Tensor, "M K"], weights: Float[Tensor, "K D"]) -> Float[Tensor, " M"]:
    """M2: the distance to the nearest of the K hyperplanes, min_k |f_k| / |w_k|, in the scaled feature space; SMALL means near.

    With a hundred hyperplanes some one is always near. A plane without direction (w = 0) is infinitely far, or, where f = 0 too, at 0.
    Source: Tong and Koller 2001, of each binary problem.
    """
    return _distance(scores.abs(), weights.norm(dim=1)).amin(1)


def geometric_top_two(scores: Float[Tensor, "M K"], weights: Float[Tensor, "K D"]) -> Float[Tensor, " M"]:
    """M3: the distance to where the two best classes tie, (f_1 - f_2) / |w_1 - w_2|, in the scaled feature space; SMALL means near.

    Two classes with one direction (w_1 = w_2) tie nowhere (infinity), or, where their scores are equal too, everywhere (0).
    Raises ValueError where there are fewer than two classes. Memory O(M K + K^2).
    """
    first, second = _best_two(scores)
    between = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist")  # products lose the digits of near planes
    return _distance(_of(scores, first) - _of(scores, second), between[first, second])


def in_margin(scores: Float[Tensor, "M K"], weights: Float[Tensor, "K D"]) -> Float[Tensor, " M"]:
    """M4: those inside the margin of some class (|f_k| < 1) before all others, and by M1 among themselves; SMALL means early.

    With g = `top_two` it is -1 / g inside, which is negative and grows with g (-infinity where g = 0), and g, which is not negative,
    outside. So the order holds row by row, whatever other rows there are.
    Raises ValueError where there are fewer than two classes.
    Source: Bengar et al. 2021, section 4, read closely: the samples in the margin area.
    """
    gap = top_two(scores, weights)
    return torch.where((scores.abs() < 1).any(1), -1 / gap, gap)


Rule = Callable[[Tensor, Tensor], Tensor]
"""From scores [M,K] and weights [K,D] to margins [M]; SMALL means near a boundary."""

RULES: dict[str, Rule] = {
    "top_two": top_two,
    "nearest_hyperplane": nearest_hyperplane,
    "geometric_top_two": geometric_top_two,
    "in_margin": in_margin,
}


def _best_two(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The classes i64 [M] with the largest and the second largest score; of equal ones the lowest, which `topk` does not promise."""
    if scores.shape[1] < 2:
        raise ValueError(f"a margin between classes needs two of them, but scores is {tuple(scores.shape)}: label another class first")
    first = scores.argmax(1)
    return first, scores.scatter(1, first[:, None], -math.inf).argmax(1)


def _of(scores: Tensor, classes: Tensor) -> Tensor:
    return scores.gather(1, classes[:, None])[:, 0]


def _distance(gap: Tensor, norm: Tensor) -> Tensor:
    return torch.where(gap == 0, gap, gap / norm)  # 0 / 0 would be NaN


# ---- the machine -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Svm:
    """K linear functions of scaled features, one for each class that has labels. In float64, on the CPU."""

    weights: Float[Tensor, "K D"]  # they apply to `scaled` features
    bias: Float[Tensor, " K"]
    classes: Int[Tensor, " K"]  # global class numbers, ascending
    scale: str  # "l2": rows of length 1 (rows of zeros stay so); "standard": mean 0 and deviation 1 over the labelled; "none"
    mean: Float[Tensor, " D"]  # of the labelled features, where the scale is "standard"; else 0
    deviation: Float[Tensor, " D"]  # likewise; else 1

    def scaled(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """What the weights apply to, float64 on the CPU."""
        return _scaled(features, self.scale, self.mean, self.deviation)

    def scores(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M K"]:
        """f_k of each row, float64 on the CPU; positive on the side of class k. Memory O(M K + BLOCK D)."""
        out = torch.empty(len(features), len(self.classes), dtype=torch.float64)
        for start in range(0, len(features), BLOCK):
            rows = slice(start, start + BLOCK)
            torch.addmm(self.bias, self.scaled(features[rows]), self.weights.T, out=out[rows])
        return out

    def predict(self, features: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
        """Global class numbers i64: those of the largest score, of equal ones the lowest."""
        return self.classes[self.scores(features).argmax(1)]


def fit_svm(
    features: Float[Tensor, "L D"], labels: Int[Tensor, "..."], *, C: float = C, estimator: str = "linear_svc", scale: str = SCALE
) -> Svm:
    """The linear SVM of `features` with `labels`, one class versus the rest, for each class among the labels.

    Args:
        C: price of a violated margin, above 0. It is comparable only between features of one scale.
        labels: i64 [L], global class numbers.
        estimator: "linear_svc", squared hinge and a bias that is regularised (liblinear); in the dual where L <= D, else in the primal,
            whose time depends little on how far the classes overlap. Or "one_vs_rest", the hinge itself (libsvm, to 1e-3): much slower.
        scale: how features are scaled, here and in the scores: see `Svm.scale`.
    Returns:
        The same for the same arguments. Where the solver needs more than `MORE` times `ITERATIONS`, what it had by then, with a warning.
    Raises:
        ValueError: an argument is none of the above, a row is not finite, a label is missing, or there are fewer than two classes.
    Source: Bengar et al. 2021, section 4; the estimators are two readings of its "linear kernel, one versus rest".
    """
    _check("fit_svm", C, estimator, scale)
    labels = labels.cpu()
    if labels.shape != features.shape[:1]:
        raise ValueError(f"fit_svm: {len(features)} rows of features, but labels {list(labels.shape)}: there must be one label a row")
    if bool((labels < 0).any()):
        row = int((labels < 0).long().argmax())
        raise ValueError(f"fit_svm: the label of row {row} is {int(labels[row])}, which is no class: leave out what has no label")
    _check_finite(features, torch.arange(len(features)), "fit_svm: row")
    classes = labels.unique()
    if len(classes) < 2:
        present = f"only class {int(classes[0])}" if len(classes) else "no class"
        raise ValueError(f"fit_svm: {present} among {len(labels)} labels, so there is no boundary: label images of another class first")
    mean, deviation = _standard(features) if scale == "standard" else _unchanged(features.shape[1])
    weights, bias = _solve(_scaled(features, scale, mean, deviation).numpy(), labels.numpy(), C, estimator)
    if len(classes) == 2:  # scikit-learn gives the function of the second class alone
        weights, bias = torch.cat([-weights, weights]), torch.cat([-bias, bias])
    return Svm(weights, bias, classes, scale, mean, deviation)


def svm_accuracy(
    features: Float[Tensor, "L D"],
    labels: Int[Tensor, "..."],
    test_features: Float[Tensor, "T D"],
    test_targets: Int[Tensor, "..."],
    *,
    C: float = C,
    estimator: str = "linear_svc",
    scale: str = SCALE,
) -> float:
    """The share in [0, 1] of `test_targets` that the SVM of the labelled features predicts; a class without labels is always missed.

    Raises:
        ValueError: nothing to test on, a test row is not finite, or as `fit_svm`.
    """
    if len(test_features) == 0 or test_targets.shape != test_features.shape[:1]:
        raise ValueError(
            f"svm_accuracy: {len(test_features)} rows of test features, but targets {list(test_targets.shape)}: "
            "there must be one target a row, and one row at least"
        )
    _check_finite(test_features, torch.arange(len(test_features)), "svm_accuracy: test row")
    predicted = fit_svm(features, labels, C=C, estimator=estimator, scale=scale).predict(test_features)
    return float((predicted == test_targets.cpu()).double().mean())


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.detach().to("cpu", torch.float64).numpy())  # knows a constant column from rounding
    return torch.from_numpy(scaler.mean_), torch.from_numpy(scaler.scale_)


def _scaled(features: Tensor, scale: str, mean: Tensor, deviation: Tensor) -> Tensor:
    x = features.detach().to("cpu", torch.float64)
    if scale == "l2":
        x = x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return (x - mean) / deviation if scale == "standard" else x


def _unchanged(D: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(D, dtype=torch.float64), torch.ones(D, dtype=torch.float64)


def _solve(x: Any, y: Any, C: float, estimator: str) -> tuple[Tensor, Tensor]:
    """Weights [K,D] and bias [K], or one row where K = 2; a second attempt, with more iterations, where the first does not converge."""
    for most in (ITERATIONS[estimator], MORE * ITERATIONS[estimator]):
        with _own_warning():
            weights, bias, done = (_linear_svc if estimator == "linear_svc" else _one_vs_rest)(x, y, C, most)
        if done < most:
            break
    else:
        warnings.warn(
            f"fit_svm: {estimator} with C = {C} on {len(x)} labels, {x.shape[1]} features, has not converged after {most} iterations; "
            'its last solution is used. Scale the features (scale="l2") or lower C',
            RuntimeWarning,
            stacklevel=3,
        )
    return torch.from_numpy(weights), torch.from_numpy(bias)


def _linear_svc(x: Any, y: Any, C: float, iterations: int) -> tuple[Any, Any, int]:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=C, dual=len(x) <= x.shape[1], max_iter=iterations, random_state=0).fit(x, y)
    return model.coef_, model.intercept_, model.n_iter_


def _one_vs_rest(x: Any, y: Any, C: float, iterations: int) -> tuple[Any, Any, int]:
    import numpy as np
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC

    parts = OneVsRestClassifier(SVC(kernel="linear", C=C, max_iter=iterations)).fit(x, y).estimators_
    done = max(int(part.n_iter_.max()) for part in parts)
    return np.concatenate([part.coef_ for part in parts]), np.concatenate([part.intercept_ for part in parts]), done


@contextmanager
def _own_warning() -> Iterator[None]:
    """Without scikit-learn's warning that the solver has not converged: where warnings are errors it would end a long run."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _check(what: str, C: float, estimator: str, scale: str) -> None:
    """Raises: ValueError, which names `what`, the value and what it may be."""
    if not 0 < C < math.inf:
        raise ValueError(f"{what}: C is {C}: it must be above 0, and finite")
    for name, value, allowed in (("estimator", estimator, tuple(ITERATIONS)), ("scale", scale, SCALES)):
        if value not in allowed:
            raise ValueError(f"{what}: {name} is {value!r}: it must be one of {', '.join(allowed)}")


def _check_finite(features: Tensor, names: Tensor, what: str) -> None:
    """Raises: ValueError, which names the first row [D] of `features` [M,D] that is not finite as `what` and its number in `names` [M]."""
    finite = features.isfinite().all(1).cpu()
    if not bool(finite.all()):
        raise ValueError(
            f"{what} {int(names[(~finite).long().argmax()])}, and {int((~finite).sum()) - 1} more, have features that are NaN or infinite: "
            "look at the net that made them"
        )


# ---- the strategy ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SvmMargin:
    """The candidates nearest to the boundaries of a linear SVM that is fitted to the features of the labelled images.

    With fewer than two classes labelled there is no boundary: it then warns, and chooses uniformly at random.
    Memory O(M K) besides the features. Source: Bengar et al. 2021, section 4 (SVM min-margin).
    """

    rule: str = "top_two"  # one of RULES
    C: float = C
    estimator: str = "linear_svc"  # or "one_vs_rest": see `fit_svm`
    scale: str = SCALE  # or "standard" or "none": see `Svm`

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        if self.rule not in RULES:
            raise ValueError(f"SvmMargin: rule is {self.rule!r}: it must be one of {', '.join(RULES)}")
        _check("SvmMargin", self.C, self.estimator, self.scale)

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Raises: ValueError where an image that it looks at has features that are not finite."""
        labelled, candidates = query.pool.labelled, query.candidates
        labels = query.pool.labels[labelled]
        classes = labels.unique().tolist()
        if len(classes) < 2:
            warnings.warn(
                f"SvmMargin: {len(labels)} labels, of the classes {classes}: without two classes there is no boundary, so this query is "
                "chosen at random",
                RuntimeWarning,
                stacklevel=2,
            )
            return candidates[torch.randperm(len(candidates), generator=(query.stream / "random").generator())[: query.n]]
        svm = fit_svm(_rows(query, labelled), labels, C=self.C, estimator=self.estimator, scale=self.scale)
        margins = [RULES[self.rule](svm.scores(_rows(query, part)), svm.weights) for part in candidates.split(BLOCK)]
        return candidates[top(-torch.cat(margins), query.n)]


def _rows(query: Query, images: Tensor) -> Tensor:
    """Features [M,D] of `images`, all of them finite."""
    rows = query.features[images.to(query.features.device)]
    _check_finite(rows, images, "SvmMargin: image")
    return rows
