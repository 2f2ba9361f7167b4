"""What the labeller asks next. A linear classifier is trained on fixed features and the labels so far, and a strategy queries."""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.acquire.query import VOID, Pool, Query, check_query
from alnb.data import Embedded, Resident
from alnb.data.files import cached_images, decode_all
from alnb.learn import nets, pretrain
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.train import Learner, Recipe, Report, fit, log_probs, predict
from alnb.store import Stream
from alnb.store.checks import at_least, one_of
from alnb.widgets.labeller import log
from alnb.widgets.labeller.folder import HELD_OUT, RESTORE, Labelling

ADVISED = "advised"  # the strategy that `advised` names
CHOICES = (ADVISED, "margin", "entropy", "least_confidence", "kcenter", "random")  # what a person may choose: it suits a linear classifier
RECIPE = Recipe(epochs=20, min_updates=200, batch=64, lr=0.1, weight_decay=1e-3)  # of the linear classifier
NEVER = -1e4  # logit of a class without labels: it is never predicted and adds nothing to an entropy
PIXELS = 16  # side of the images that the features "pixels" use
COMPONENTS = 64  # the largest number of their principal components
STABLE, ROUNDS = 0.99, 3  # labelling may stop if Cohen's kappa of successive rounds averages at least `STABLE` over `ROUNDS` rounds


def images_of(state: Labelling, image_size: int = 32) -> Resident:
    """The images in the order of `state.items`, as squares of `image_size` pixels. Decoded once and cached."""
    paths = [state.folder / item.files[0] for item in state.items]
    return Resident(cached_images(state.place / f"images-{image_size}.pt", paths, lambda: decode_all(paths, image_size)[0]))


def pixels(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,D] without training: the largest principal components of small images, D at most `COMPONENTS`."""
    small = functional.interpolate(images.tensor.float() / 255, size=(PIXELS, PIXELS), mode="area").flatten(1)
    centred = (small - small.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return (centred @ vectors[:, values.argsort(descending=True)[:COMPONENTS]]).float()


def rotation(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,D] of a net that predicts how these images were rotated. Takes minutes, once. Source: Gidaris et al. 2018."""
    tiny = images.shape[1] < 16
    recipe = Recipe(epochs=15, min_updates=500, batch=64, lr=0.05, augment=AUGMENTATIONS["shift" if tiny else "crop_flip"])
    mean, std = images.statistics
    learner = Learner(partial(nets.small, width=24), recipe, mean=mean, std=std)
    return pretrain.pretrain(pretrain.PRETEXTS["rotation"], images, learner, cache=cache, report=report).features


def resnet18(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,512] of torchvision's ResNet-18, trained on ImageNet, from images enlarged to 224 pixels. Computed once.

    Raises: ValueError if the weights are not on this machine and cannot be downloaded.
    """
    from torchvision import models

    weights = models.ResNet18_Weights.DEFAULT

    def compute(folder: Path) -> dict[str, Any]:
        try:
            net = models.resnet18(weights=weights).eval()
        except OSError as error:
            raise ValueError(
                f"{weights.url} is not on this machine and cannot be downloaded ({error}): choose the features 'rotation', which learn "
                "from your images, or copy the file to torch's folder hub/checkpoints"
            ) from error
        net.fc = torch.nn.Identity()
        usual = weights.transforms()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (usual.mean, usual.std))

        def embed(x: Tensor) -> Tensor:
            large = functional.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
            features: Tensor = net((large - mean) / std)
            return features

        return {"features": predict(embed, images, chunk=64)}

    experiment = store.describe({"images": images.fingerprint, "weights": str(weights)})
    features: Tensor = store.cached(cache, "resnet18", experiment, torch.device("cpu"), compute)["features"]
    return features


FEATURES: dict[str, Callable[[Resident, Path, Report | None], Tensor]] = {"rotation": rotation, "resnet18": resnet18, "pixels": pixels}


def scaled(features: Tensor) -> Tensor:
    """Float [N,D] with mean 0 in each column and an average variance of 1 over all columns (0 if all are constant).

    Columns keep their relative variances: the last principal components of small images are noise.
    """
    centred = features - features.mean(dim=0)
    return centred / centred.square().mean().sqrt().clamp_min(1e-6)


@cache
def defaults() -> tuple[dict[str, str], ...]:
    """What `notebooks/which_strategy.ipynb` measured, the rows of defaults.csv: round, up_to (labels a class), strategy,
    reason, classes (of the data sets that it was measured on; empty: it was not).

    Budgets increase. `python -m benchmarks which_strategy` writes the file.
    """
    with (Path(__file__).parent / "defaults.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def advised(round: str, labels: float) -> tuple[str, str]:
    """The strategy for the "first" labels, or for "later" ones, when `labels` a class are known with them; and the reason in words.

    Beyond the largest budget that was measured, its strategy.
    """
    rows = [row for row in defaults() if row["round"] == round]
    row = next((row for row in rows if labels <= float(row["up_to"])), rows[-1])
    return row["strategy"], row["reason"]


@dataclass(frozen=True)
class Settings:
    """What the model sees, and how it asks."""

    features: str = "rotation"  # one of `FEATURES`
    strategy: str = ADVISED  # one of `CHOICES`
    batch: int = 10  # images in each round
    image_size: int = 32  # pixels, the side of the squares that the features are computed from
    seed: int = 0

    def check(self) -> None:
        """Raises: ValueError for a value that is not possible."""
        one_of("features", self.features, FEATURES)
        one_of("strategy", self.strategy, CHOICES)
        at_least("batch", self.batch, 1)
        at_least("image_size", self.image_size, 1)


@dataclass(frozen=True)
class Round:
    """The classifier's quality after one training."""

    round: int  # from 0
    labelled: int  # images it was trained on
    held_out: int  # held-out images with a class from a person
    right: int  # of them, those that it predicts correctly
    agreement: float | None  # Cohen's kappa with the predictions of the round before, on images without a label; None: no such round
    seconds: float

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out images; NaN if there are none."""
        return self.right / self.held_out if self.held_out else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy`; (0, 1) if there are no held-out images. Source: Wilson 1927."""
        from scipy.stats import binomtest

        if not self.held_out:
            return 0.0, 1.0
        interval = binomtest(self.right, self.held_out).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Batch:
    """The questions of one round."""

    round: int  # from 0
    keys: tuple[str, ...]  # images, in the order in which they are asked
    guesses: Mapping[str, tuple[str, float]]  # the predicted class and its probability, by key; empty before the first training
    why: str = ""  # the strategy that asks, and the reason

    def left(self, state: Labelling) -> list[str]:
        """The images that are still without an answer, and can be shown."""
        return [key for key in self.keys if key in state.by_key and key not in state.labels and key not in state.missing]


def rounds(state: Labelling) -> list[Round]:
    """All rounds so far, the oldest first."""
    lines = log.read_lines(state.place / "rounds.jsonl", RESTORE)
    return [Round(**{name: line[name] for name in Round.__dataclass_fields__}) for line in lines]


def current(state: Labelling) -> Batch | None:
    """The latest batch; None before the first."""
    path = state.place / "queue.json"
    if not path.exists():
        return None
    queue = store.read_json(path, "delete it: no label is lost, only other images are asked next")
    guesses = {key: (name, share) for key, (name, share) in queue["guesses"].items()}
    return Batch(queue["round"], tuple(queue["keys"]), guesses, queue.get("why", ""))


def next_batch(state: Labelling, features: Tensor, settings: Settings) -> Batch:
    """Train on the labels so far and choose the next images. The batch is stored, so the next session asks the same.

    Until two classes have labels, what asks is `advised` for the first labels, unless random was chosen. A share `HELD_OUT` of all batches
    is held out.
    The batch is empty if all images have an answer. `features`: float [N,D], in the order of `state.items`.

    Raises: ValueError if a setting is not possible, or `features` are not those of these images.
    """
    settings.check()
    if len(features) != len(state.items):
        raise ValueError(f"features of {len(features)} images, but the folder has {len(state.items)}: compute them again")
    start, before = time.monotonic(), current(state)
    k, n, seed = before.round + 1 if before else 0, settings.batch, settings.seed
    pool, held = _pool(state, scaled(features)), torch.tensor([item.held_out for item in state.items])
    net = _train(pool, held, len(state.classes), seed, k)
    reserve = ((pool.acquired == VOID) & held).nonzero().flatten().tolist()
    free = ((pool.acquired == VOID) & ~held).nonzero().flatten()
    share = max(round((k + 1) * n * HELD_OUT) - round(k * n * HELD_OUT), n - len(free))
    reserve.sort(key=lambda i: store.fingerprint("order", state.items[i].key))
    estimate = torch.tensor(reserve[: min(share, n)], dtype=torch.int64)
    wanted = min(n - len(estimate), len(free))
    strategy, why = settings.strategy, "you chose it"
    if strategy == ADVISED or (net is None and strategy != "random"):
        strategy, why = advised("first" if net is None else "later", (len(pool.labelled) + n) / max(1, len(state.classes)))
    learn = _choose(pool, net, free, strategy, wanted, Stream(seed) / "query" / k) if wanted else free[:0]
    both = torch.cat([learn, estimate])
    order = torch.randperm(len(both), generator=(Stream(seed) / "mixed" / k).generator())
    keys = [state.items[i].key for i in both[order].tolist()]
    guesses = _guesses(state, pool, net)
    if net is not None:
        _write_round(state, k, pool, held, guesses, time.monotonic() - start)
    batch = Batch(k, tuple(keys), {key: guesses[key] for key in keys if key in guesses}, f"{strategy}: {why}")
    store.write_json(state.place / "queue.json", asdict(batch))
    return batch


def advice(history: Sequence[Round], classes: int, left: int) -> str:
    """A sentence that says whether to continue, from how little the predictions of successive rounds differ.

    Source: Bloodgood and Vijay-Shanker 2009, stabilising predictions: stop if the mean of the last three kappas is at least 0.99.
    `history`: the rounds so far, the oldest first. `classes`: those with labels to train on. `left`: images without an answer.
    """
    if not left:
        return "Every image has an answer."
    if classes < 2 or not history:
        return "Too early to tell: the model learns once two classes have labels."
    agreements = [past.agreement for past in history[-ROUNDS:] if past.agreement is not None]
    if len(agreements) < ROUNDS:
        return f"Too early to tell: at least {ROUNDS + 1} rounds are needed."
    mean = sum(agreements) / ROUNDS
    if mean >= STABLE:
        return f"You may stop: in {ROUNDS} rounds, new labels hardly changed the predictions (agreement {mean:.3f}, limit {STABLE})."
    return f"Go on: new labels still change the predictions (agreement over {ROUNDS} rounds {mean:.2f}, stop from {STABLE})."


def kappa(first: list[str], second: list[str]) -> float:
    """Cohen's kappa of two lists of class names of equal length; 1 if all are equal. Source: Cohen 1960."""
    from sklearn.metrics import cohen_kappa_score

    return 1.0 if first == second else float(cohen_kappa_score(first, second))


def _pool(state: Labelling, features: Tensor) -> Pool:
    labels, acquired = torch.full((len(features),), VOID), torch.full((len(features),), VOID)
    numbers = {name: k for k, name in enumerate(state.classes)}
    for i, item in enumerate(state.items):
        if item.key in state.labels or item.key in state.missing:
            name = state.labels.get(item.key)
            acquired[i], labels[i] = 0, VOID if name is None else numbers[name]
    return Pool(Embedded(Resident(torch.zeros(len(features), 3, 1, 1, dtype=torch.uint8)), features), labels, acquired)


def _train(pool: Pool, held: Tensor, classes: int, seed: int, k: int) -> nets.Net | None:
    known = ((pool.labels != VOID) & ~held).nonzero().flatten()
    if len(pool.labels[known].unique()) < 2:
        return None
    learner = Learner(partial(nets.linear, width=pool.images.shape[0]), RECIPE)
    stream = Stream(seed) / "labelling" / k
    net = learner.build(classes, stream)
    fit(net, pool.images, known, pool.labels[known], learner, stream)
    without_labels = ~torch.isin(torch.arange(classes), pool.labels[known])
    with torch.no_grad():
        net.get_parameter("head.bias")[without_labels] = NEVER
    return net


def _choose(pool: Pool, net: nets.Net | None, candidates: Tensor, strategy: str, n: int, stream: Stream) -> Tensor:
    query = Query(pool, net, candidates, n, stream)
    chosen = STRATEGIES[strategy](query)
    check_query(chosen, query, f"strategy {strategy}")
    return chosen


def _guesses(state: Labelling, pool: Pool, net: nets.Net | None) -> dict[str, tuple[str, float]]:
    if net is None:
        return {}
    share, label = predict(log_probs(net), pool.images).exp().max(dim=1)
    return {item.key: (state.classes[c], round(p, 4)) for item, c, p in zip(state.items, label.tolist(), share.tolist(), strict=True)}


def _write_round(state: Labelling, k: int, pool: Pool, held: Tensor, guesses: Mapping[str, tuple[str, float]], seconds: float) -> None:
    path, earlier = state.place / "predictions.json", rounds(state)
    if earlier and earlier[-1].round == k:
        return  # the process was killed after writing this round and before writing its questions
    before = store.read_json(path)["classes"] if path.exists() else {}
    now = {key: name for key, (name, _) in guesses.items()}
    both = [item.key for i, item in enumerate(state.items) if item.key in before and pool.acquired[i] == VOID]
    # imported labels do not count: they are no random sample
    asked = {key: answer["label"] for key, answer in state.answers.items() if answer["label"] and "source" not in answer}
    tested = [item.key for item in state.items if item.held_out and item.key in asked]
    past = Round(
        k, int(((pool.labels != VOID) & ~held).sum()), len(tested), sum(now[key] == asked[key] for key in tested),
        kappa([before[key] for key in both], [now[key] for key in both]) if both else None, round(seconds, 3),
    )  # fmt: skip
    log.append_line(state.place / "rounds.jsonl", asdict(past))
    store.write_json(path, {"classes": now})
