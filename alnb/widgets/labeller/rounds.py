"""What a labeller asks next: a linear classifier learns from the labels so far, on features that are made once, and a strategy chooses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.acquire.query import VOID, Pool, Query, check_query
from alnb.data import Embedded, Resident
from alnb.data.files import cached_images, decode_all
from alnb.learn import nets, pretrain
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.train import Learner, Recipe, Report, fit, log_probs, predict
from alnb.store import Stream
from alnb.widgets.labeller.folder import HELD_OUT, RESTORE, Item, Labelling

CHOICES = ("margin", "entropy", "least_confidence", "kcenter", "random")  # strategies of `STRATEGIES` that suit a linear classifier
RECIPE = Recipe(epochs=20, min_updates=200, batch=64, lr=0.1, weight_decay=1e-3)  # of the linear classifier
NEVER = -1e4  # logit of a class without a label: it is not guessed, and adds nothing to an entropy
PIXELS = 16  # side of the image that the features "pixels" see
COMPONENTS = 64  # principal components of them
STABLE, ROUNDS = 0.99, 3  # Cohen's kappa between the predictions of successive rounds, and for how many of them, before labelling may stop


# ---- features ------------------------------------------------------------------------------------------------------------------


def images_of(state: Labelling, image_size: int = 32) -> Resident:
    """The images of the folder, in the order of `state.items`, as squares of `image_size` pixels; decoded once and kept."""
    paths = [state.folder / item.files[0] for item in state.items]
    return Resident(cached_images(state.place / f"images-{image_size}.pt", paths, lambda: decode_all(paths, image_size)[0]))


def pixels(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,D] without any learning: the largest principal components of small images, D at most `COMPONENTS`."""
    from torch.nn import functional

    small = functional.interpolate(images.tensor.float() / 255, size=(PIXELS, PIXELS), mode="area").flatten(1)
    centred = (small - small.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return (centred @ vectors[:, values.argsort(descending=True)[:COMPONENTS]]).float()


def rotation(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,D] of a net that learned by how much these very images were turned; minutes, once. Source: Gidaris et al. 2018."""
    tiny = images.shape[1] < 16
    recipe = Recipe(epochs=15, min_updates=500, batch=64, lr=0.05, augment=AUGMENTATIONS["shift" if tiny else "crop_flip"])
    mean, std = images.statistics
    learner = Learner(partial(nets.small, width=24), recipe, mean=mean, std=std)
    return pretrain.pretrain(pretrain.PRETEXTS["rotation"], images, learner, cache=cache, report=report).features


def resnet18(images: Resident, cache: Path, report: Report | None = None) -> Tensor:
    """Features float [N,512] of torchvision's ResNet-18, trained on ImageNet; images are enlarged to 224 pixels. Computed once.

    Raises:
        ValueError: the weights are neither on this machine nor can be fetched.
    """
    from torch.nn import functional
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as made

    weights = ResNet18_Weights.DEFAULT

    def compute(folder: Path) -> dict[str, Any]:
        try:
            net = made(weights=weights).eval()
        except OSError as error:
            raise ValueError(
                f"the weights {weights.url} are not here and cannot be fetched ({error}): choose the features 'rotation', which learn "
                "from your own images, or bring the file to torch's folder hub/checkpoints"
            ) from error
        net.fc = torch.nn.Identity()
        usual = weights.transforms()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (usual.mean, usual.std))

        def embed(x: Tensor) -> Tensor:
            large = functional.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
            found: Tensor = net((large - mean) / std)
            return found

        return {"features": predict(embed, images, chunk=64)}

    experiment = store.describe({"images": images.fingerprint, "weights": str(weights)})
    found: Tensor = store.kept(cache, "resnet18", experiment, torch.device("cpu"), compute)["features"]
    return found


FEATURES: dict[str, Callable[[Resident, Path, Report | None], Tensor]] = {"rotation": rotation, "resnet18": resnet18, "pixels": pixels}


def scaled(features: Tensor) -> Tensor:
    """Float [N,D] with mean 0 in each column and variance 1 on average over them (0 where all are constant).

    Not in each: principal components of small images are in the order of their size, and the last ones are noise.
    """
    centred = features - features.mean(dim=0)
    return centred / centred.square().mean().sqrt().clamp_min(1e-6)


# ---- rounds --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """How good the classifier was after learning from the labels of its time."""

    round: int
    labelled: int  # images it learned from
    held_out: int  # held-out images that somebody who was asked gave a class
    right: int  # of them
    agreement: float | None  # Cohen's kappa with the predictions of the round before, on the images without a label; None: no such round
    seconds: float

    @property
    def accuracy(self) -> float:
        """On the held-out images, NaN where there is none."""
        return self.right / self.held_out if self.held_out else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Limits of 95 % of `accuracy`: (0, 1) where nothing is held out. Source: Wilson 1927."""
        from scipy.stats import binomtest

        if not self.held_out:
            return 0.0, 1.0
        found = binomtest(self.right, self.held_out).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Batch:
    """What is asked in one round, in this order."""

    round: int
    keys: tuple[str, ...]
    guesses: Mapping[str, tuple[str, float]]  # the classifier's class and its probability, by key; empty before it has learned

    def left(self, state: Labelling) -> list[str]:
        """Those still to be answered, of images that are there."""
        answered = state.labels
        return [key for key in self.keys if key in state.by_key and key not in answered and key not in state.gone]


def rounds(state: Labelling) -> list[Round]:
    """The rounds so far, the oldest first."""
    lines = store.read_lines(state.place / "rounds.jsonl", RESTORE)
    return [Round(**{name: line[name] for name in Round.__dataclass_fields__}) for line in lines]


def current(state: Labelling) -> Batch | None:
    """The batch that was asked last, None before the first."""
    path = state.place / "queue.json"
    if not path.exists():
        return None
    told = store.read_json(path, "delete it, and other images are asked for: no label is lost")
    return Batch(told["round"], tuple(told["keys"]), {key: (name, share) for key, (name, share) in told["guesses"].items()})


def next_batch(state: Labelling, features: Tensor, strategy: str = "margin", n: int = 10, *, seed: int = 0) -> Batch:
    """Learn from the labels so far, and choose up to `n` images to ask for: kept, so that the next session asks for the same.

    Before there are labels of two classes, images are typical ones, see `acquire.typical`. A part `HELD_OUT` of each batch is held out.

    Args:
        features: float [N,D], in the order of `state.items`.
        strategy: one of `CHOICES`.
    Returns:
        An empty batch where every image has been asked about.
    Raises:
        ValueError: an unknown strategy, fewer than one image, or features that are not of these images.
    """
    if strategy not in CHOICES or n < 1 or len(features) != len(state.items):
        raise ValueError(
            f"strategy {strategy!r}, {n} images, features of {len(features)} images for {len(state.items)}: choose one of "
            f"{', '.join(CHOICES)}, at least one image, and features of the images of this folder"
        )
    before = current(state)
    k = before.round + 1 if before else 0
    start = time.monotonic()
    pool, held = _pool(state, scaled(features)), torch.tensor([item.held_out for item in state.items])
    trained = _trained(pool, held, len(state.classes), seed, k)
    free = (pool.acquired == VOID) & ~held
    reserve = ((pool.acquired == VOID) & held).nonzero().flatten().tolist()
    share = max(round((k + 1) * n * HELD_OUT) - round(k * n * HELD_OUT), n - int(free.sum()))
    aside = torch.tensor(sorted(reserve, key=lambda i: _draw(state.items[i]))[: min(share, n)], dtype=torch.int64)
    wanted = min(n - len(aside), int(free.sum()))
    chosen = _chosen(pool, trained, free, strategy, wanted, Stream(seed) / "query" / k) if wanted else aside[:0]
    both = torch.cat([chosen, aside])
    order = torch.randperm(len(both), generator=(Stream(seed) / "mixed" / k).generator())
    keys = [state.items[i].key for i in both[order].tolist()]
    guesses = _guesses(state, pool, trained)
    if trained is not None:
        _write_round(state, k, pool, held, guesses, time.monotonic() - start)
    own = {key: guesses[key] for key in keys if key in guesses}
    store.write_json(state.place / "queue.json", {"round": k, "keys": keys, "guesses": own})
    found = current(state)
    assert found is not None  # just written
    return found


def advice(history: Iterable[Round], classes: int, left: int) -> str:
    """Whether to go on, as a sentence: by how little successive rounds differ in what they predict.

    Source: Bloodgood and Vijay-Shanker 2009, stabilising predictions: stop where the mean of the last three kappas is at least 0.99.

    Args:
        history: the rounds so far, the oldest first. classes: how many have labels that are learned from. left: images not asked for yet.
    """
    known = list(history)
    if not left:
        return "Every image has been asked about."
    if classes < 2 or not known:
        return "Too early to tell: the classifier learns once two classes have labels."
    agreements = [one.agreement for one in known[-ROUNDS:] if one.agreement is not None]
    if len(agreements) < ROUNDS:
        return f"Too early to tell: at least {ROUNDS + 1} rounds are needed."
    mean = sum(agreements) / ROUNDS
    if mean >= STABLE:
        return f"You may stop: in {ROUNDS} rounds new labels hardly changed what the classifier says (agreement {mean:.3f}, of {STABLE})."
    return f"Go on: new labels still change what the classifier says (agreement over {ROUNDS} rounds {mean:.2f}, stop from {STABLE})."


def _draw(item: Item) -> str:
    return store.fingerprint("order", item.key)


def _pool(state: Labelling, features: Tensor) -> Pool:
    labels, acquired = torch.full((len(features),), VOID), torch.full((len(features),), VOID)
    numbers, said = {name: k for k, name in enumerate(state.classes)}, state.labels
    for i, item in enumerate(state.items):
        if item.key in said:
            name = said[item.key]
            acquired[i], labels[i] = 0, VOID if name is None else numbers[name]
        elif item.key in state.gone:
            acquired[i] = 0
    return Pool(Embedded(Resident(torch.zeros(len(features), 3, 1, 1, dtype=torch.uint8)), features), labels, acquired)


def _trained(pool: Pool, held: Tensor, classes: int, seed: int, k: int) -> nets.Net | None:
    known = ((pool.labels != VOID) & ~held).nonzero().flatten()
    if len(pool.labels[known].unique()) < 2:
        return None
    learner = Learner(partial(nets.linear, width=pool.images.shape[0]), RECIPE)
    stream = Stream(seed) / "labelling" / k
    net = learner.build(classes, stream)
    fit(net, pool.images, known, pool.labels[known], learner, stream)
    unseen = ~torch.isin(torch.arange(classes), pool.labels[known])
    with torch.no_grad():
        net.get_parameter("head.bias")[unseen] = NEVER
    return net


def _chosen(pool: Pool, net: nets.Net | None, free: Tensor, strategy: str, n: int, stream: Stream) -> Tensor:
    candidates = free.nonzero().flatten()
    query = Query(pool, net, candidates, n, stream)
    name = "typical" if net is None and strategy != "random" else strategy
    chosen = STRATEGIES[name](query)
    check_query(chosen, query, f"strategy {name}")
    return chosen


def _guesses(state: Labelling, pool: Pool, net: nets.Net | None) -> dict[str, tuple[str, float]]:
    if net is None:
        return {}
    share, label = predict(log_probs(net), pool.images).exp().max(dim=1)
    return {item.key: (state.classes[int(one)], round(float(p), 4)) for item, one, p in zip(state.items, label, share, strict=True)}


def _write_round(state: Labelling, k: int, pool: Pool, held: Tensor, guesses: Mapping[str, tuple[str, float]], seconds: float) -> None:
    path, earlier = state.place / "predictions.json", rounds(state)
    if earlier and earlier[-1].round == k:
        return  # it was written before, and then the queue was not
    before = store.read_json(path)["classes"] if path.exists() else {}
    now = {key: name for key, (name, _) in guesses.items()}
    both = [item.key for i, item in enumerate(state.items) if item.key in before and pool.acquired[i] == VOID]
    answers = state.answers  # but not those that were taken over, which are no random sample
    asked = {key: one["label"] for key, one in answers.items() if one["label"] and "source" not in one}
    shown = [(item, asked[item.key]) for item in state.items if item.held_out and item.key in asked]
    found = Round(
        k, int(((pool.labels != VOID) & ~held).sum()), len(shown), sum(now[item.key] == name for item, name in shown),
        kappa([before[key] for key in both], [now[key] for key in both]) if both else None, round(seconds, 3),
    )  # fmt: skip
    store.append_line(state.place / "rounds.jsonl", asdict(found))
    store.write_json(path, {"classes": now})


def kappa(one: list[str], other: list[str]) -> float:
    """Cohen's kappa of two lists of class names of equal length: 1 where all are equal. Source: Cohen 1960."""
    from sklearn.metrics import cohen_kappa_score

    return 1.0 if one == other else float(cohen_kappa_score(one, other))
