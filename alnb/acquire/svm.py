"""A linear support vector machine (SVM) on features, and the images nearest to its boundaries: SVM min-margin of Bengar et al. 2021.

The paper (section 4) gives scikit-learn, a linear kernel, C = 5 and one versus rest, and queries the images closest to a boundary. Here
the margin is the gap between the two largest scores. Scores are float64 on the CPU, so that no device's precision decides a query.
The paper leaves the estimator open, and has no published code; `ESTIMATORS` has two readings.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alnb.acquire.query import Query
from alnb.acquire.scores import top
from alnb.store.checks import one_of, within
from alnb.store.shapes import Float, Int

ESTIMATORS = ("linear_svc", "svc")
"""Two readings of the paper:

- "linear_svc", the default and ours: liblinear, one class versus the rest, on features of unit length, so that C means the same for
  all nets.
- "svc", its words read literally: SVC(kernel="linear", decision_function_shape="ovr") on the features as they are. libsvm separates each
  pair of classes; the score of a class counts the pairs that it wins, so most margins are nearly whole numbers.
"""
C = 5.0  # price of a violated margin; Bengar et al. 2021, section 4
ITERATIONS = 50_000  # of liblinear, at most
BLOCK = 4096  # rows widened to float64 and scored together


def top_two(scores: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
    """The largest score minus the second largest; SMALL means near a boundary. Source: google/active-learning.

    Raises ValueError where there are fewer than two classes.
    """
    if scores.shape[1] < 2:
        raise ValueError(f"a margin needs two classes, but scores is {tuple(scores.shape)}: label an image of another class first")
    first, second = scores.topk(2, dim=1).values.unbind(1)
    return first - second


def unit_rows(features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
    """The features with rows of length 1, float64 on the CPU; rows of zeros stay zero."""
    x = features.detach().to("cpu", torch.float64)
    return x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class Svm:
    """P linear functions in float64, on the CPU: of `unit_rows` for each of the K classes with labels, or of features for each pair."""

    weights: Float[Tensor, "P D"]
    bias: Float[Tensor, " P"]
    classes: Int[Tensor, " K"]  # global class numbers, ascending
    pairs: bool = False  # the functions are of the pairs (0, 1), (0, 2), ... of classes, positive on the side of the first

    def scores(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M K"]:
        """Scores float64; LARGE means the class. Without `pairs` they are the functions' values. Memory O(M K + BLOCK (D + P))."""
        out = torch.empty(len(features), len(self.classes), dtype=torch.float64)
        for start in range(0, len(features), BLOCK):
            rows = slice(start, start + BLOCK)
            x = features[rows].detach().to("cpu", torch.float64) if self.pairs else unit_rows(features[rows])
            values = torch.addmm(self.bias, x, self.weights.T)
            out[rows] = one_versus_rest(values, len(self.classes)) if self.pairs else values
        return out

    def predict(self, features: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
        """Global class numbers i64, those with the largest score; the lowest of equal ones. With `pairs`, as SVC with `break_ties`."""
        return self.classes[self.scores(features).argmax(1)]


def one_versus_rest(values: Float[Tensor, "M P"], classes: int) -> Float[Tensor, "M K"]:
    """Scores of `classes` from the values of all pairs: the pairs that a class wins, plus s / (3 |s| + 3) of the sum s of their values.

    With two classes, the value and its negative. Source: scikit-learn's "ovr" decision function of SVC.
    """
    if classes == 2:
        return torch.cat([values, -values], dim=1)
    first, second = torch.combinations(torch.arange(classes)).unbind(1)
    wins, sums = (torch.zeros(len(values), classes, dtype=values.dtype) for _ in range(2))
    wins.index_add_(1, first, (values >= 0).to(values)).index_add_(1, second, (values < 0).to(values))
    sums.index_add_(1, first, values).index_add_(1, second, -values)
    return wins + sums / (3 * (sums.abs() + 1))


def fit_svm(features: Float[Tensor, "L D"], labels: Int[Tensor, "..."], *, C: float = C, estimator: str = "linear_svc") -> Svm:
    """The linear SVM for the classes among the labels, by one of `ESTIMATORS`.

    "linear_svc" has a squared hinge and a regularised bias, solved in the dual where L <= D, else in the primal.

    labels: i64 [L], global class numbers. If `ITERATIONS` of liblinear do not suffice, the last solution comes with a warning.

    Raises ValueError for a wrong `C`, a row that is not finite, a missing label, or fewer than two classes.
    Source: Bengar et al. 2021, section 4.
    """
    within("fit_svm: C", C, 0, above=True)
    one_of("fit_svm: estimator", estimator, ESTIMATORS)
    labels = labels.cpu()
    if labels.shape != features.shape[:1]:
        raise ValueError(f"fit_svm: {len(features)} rows of features, but labels {list(labels.shape)}: give one label per row")
    if bool((labels < 0).any()):
        row = int((labels < 0).long().argmax())
        raise ValueError(f"fit_svm: the label of row {row} is {int(labels[row])}, which is no class: leave out rows without a label")
    _check_finite(features, torch.arange(len(features)), "fit_svm: row")
    classes = labels.unique()
    if len(classes) < 2:
        present = f"only class {int(classes[0])}" if len(classes) else "no class"
        raise ValueError(f"fit_svm: {present} among {len(labels)} labels, so there is no boundary: label images of another class first")
    if estimator == "svc":
        from sklearn.svm import SVC

        model = SVC(C=C, kernel="linear").fit(features.detach().to("cpu", torch.float64).numpy(), labels.numpy())
        sign = -1 if len(classes) == 2 else 1  # of two classes, scikit-learn gives the function of the second
        return Svm(torch.from_numpy(sign * model.coef_), torch.from_numpy(sign * model.intercept_), classes, pairs=True)
    weights, bias = _solve(unit_rows(features).numpy(), labels.numpy(), C)
    if len(classes) == 2:  # scikit-learn gives only the function of the second class
        weights, bias = torch.cat([-weights, weights]), torch.cat([-bias, bias])
    return Svm(weights, bias, classes)


def svm_accuracy(
    features: Float[Tensor, "L D"],
    labels: Int[Tensor, "..."],
    test_features: Float[Tensor, "T D"],
    test_targets: Int[Tensor, "..."],
    *,
    C: float = C,
    estimator: str = "linear_svc",
) -> float:
    """The share in [0, 1] of `test_targets` that an SVM of the labelled features predicts. A class without labels is always missed.

    Raises ValueError if there are no test rows, or a test row is not finite, or as `fit_svm`.
    """
    if len(test_features) == 0 or test_targets.shape != test_features.shape[:1]:
        raise ValueError(
            f"svm_accuracy: {len(test_features)} rows of test features, but targets {list(test_targets.shape)}: "
            "give one target per row, and at least one row"
        )
    _check_finite(test_features, torch.arange(len(test_features)), "svm_accuracy: test row")
    predicted = fit_svm(features, labels, C=C, estimator=estimator).predict(test_features)
    return float((predicted == test_targets.cpu()).double().mean())


def _solve(x: Any, y: Any, C: float) -> tuple[Tensor, Tensor]:
    """Weights [K,D] and bias [K], or one row where K = 2."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    dual = len(x) <= x.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where warnings are errors, it would end a long run
        model = LinearSVC(C=C, dual=dual, max_iter=ITERATIONS, random_state=0).fit(x, y)
    if model.n_iter_ >= ITERATIONS:
        warnings.warn(
            f"fit_svm: LinearSVC with C = {C} on {len(x)} labels, {x.shape[1]} features, has not converged after {ITERATIONS} iterations; "
            "its last solution is used. Lower C",
            RuntimeWarning,
            stacklevel=3,
        )
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def _check_finite(features: Tensor, names: Tensor, place: str) -> None:
    """Raises: ValueError, which names the first row of `features` [M,D] that is not finite: the `place` and its number in `names` [M]."""
    finite = features.isfinite().all(1).cpu()
    if not bool(finite.all()):
        raise ValueError(
            f"{place} {int(names[(~finite).long().argmax()])}, and {int((~finite).sum()) - 1} more, have features that are NaN or "
            "infinite: look at the net that made them"
        )


@dataclass(frozen=True)
class SvmMargin:
    """Queries the candidates nearest to the boundaries of a linear SVM, fitted to the features of the labelled images.

    With fewer than two labelled classes there is no boundary: it then warns, and chooses uniformly at random.
    Memory O(M K) besides the features. Source: Bengar et al. 2021, section 4 (SVM min-margin).
    """

    C: float = C
    estimator: str = "linear_svc"  # one of `ESTIMATORS`

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        within("SvmMargin.C", self.C, 0, above=True)
        one_of("SvmMargin.estimator", self.estimator, ESTIMATORS)

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Raises: ValueError where a labelled image or a candidate has features that are not finite."""
        labelled, candidates = query.pool.labelled, query.candidates
        labels = query.pool.labels[labelled]
        classes = labels.unique().tolist()
        if len(classes) < 2:
            warnings.warn(
                f"SvmMargin: {len(labels)} labels, of the classes {classes}: there is no boundary between fewer than two classes, so this "
                "query is chosen at random",
                RuntimeWarning,
                stacklevel=2,
            )
            return candidates[torch.randperm(len(candidates), generator=(query.stream / "random").generator())[: query.n]]
        svm = fit_svm(_rows(query, labelled), labels, C=self.C, estimator=self.estimator)
        margins = [top_two(svm.scores(_rows(query, part))) for part in candidates.split(BLOCK)]
        return candidates[top(-torch.cat(margins), query.n)]


def _rows(query: Query, images: Tensor) -> Tensor:
    """Features [M,D] of `images`, all of them finite."""
    rows = query.features[images.to(query.features.device)]
    _check_finite(rows, images, "SvmMargin: image")
    return rows
