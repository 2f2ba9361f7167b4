"""The strategies of Yi et al. 2022, its ablations (section 6), and a defect of published baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from alnb import acquire
from alnb.acquire import Strategy, random, random_with_replacement
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.learn.train import Learner
from alnb.papers.methods import learning_loss, pt4al
from alnb.papers.methods.gcn import CoreGCN, UncertainGCN
from alnb.papers.methods.pt4al import LossBatch

if TYPE_CHECKING:
    from alnb.papers.yi2022.experiment import Setting

SUBSET = ("kcenter", "vaal", "learning_loss", "learning_loss_detached", "core_gcn", "uncertain_gcn", "pal", "ta_vaal")
"""The strategies that score a random part of the pool. Learning Loss does so in its paper; CoreGCN and TA-VAAL do so in their code, which
runs VAAL and Core-Set so too. PAL alone does not: with all of a large pool its score finds outliers, and PT4AL's paper does not say what it
did."""
SPACES = {"clean": "hidden", "paper": "hidden", "as_released": "hidden_logit"}  # of CoreGCN, by the switch `baselines`
CONFIDENCES = {"softmax": acquire.STRATEGIES["least_confidence"], "normalised": pt4al.normalised_confidence}


@dataclass(frozen=True)
class PaperStrategy:
    """How a strategy chooses, and what it changes in the training."""

    later: Callable[[Setting], Strategy]  # chooses from cycle 1 on
    first: Callable[[Setting], Strategy] = lambda _: random  # chooses in cycle 0
    learner: Callable[[Learner], Learner] = lambda plain: plain
    pretext: bool = False  # whether it sorts by the losses of a pretext
    exact: bool = True  # False: it may choose fewer than asked for


def _plain(name: str) -> PaperStrategy:
    return PaperStrategy(lambda _: acquire.STRATEGIES[name])


def _subset(later: Callable[[Setting], Strategy]) -> Callable[[Setting], Strategy]:
    return lambda setting: Scoped(RandomSubset(setting.subset), later(setting))


def _batch(setting: Setting, order: str) -> LossBatch:
    return LossBatch(setting.batches, key=setting.switches.key, order=order, first=setting.switches.first_batch)


def _pt4al(first: Strategy = pt4al.evenly, later: Strategy | None = None, order: str = "high_first") -> PaperStrategy:
    """PT4AL. `first` chooses within the first batch, `later` within the others (None: the least confident images)."""
    return PaperStrategy(
        lambda setting: Scoped(_batch(setting, order), later or CONFIDENCES[setting.switches.confidence]),
        lambda setting: Scoped(_batch(setting, order), first),
        pretext=True,
    )


STRATEGIES: dict[str, PaperStrategy] = {
    "random": _plain("random"),
    "entropy": _plain("entropy"),
    "kcenter": PaperStrategy(_subset(lambda _: acquire.STRATEGIES["kcenter"])),
    "vaal": PaperStrategy(_subset(lambda setting: setting.vaal)),
    "learning_loss": PaperStrategy(_subset(lambda _: learning_loss.learning_loss), learner=learning_loss.learner),
    "learning_loss_detached": PaperStrategy(
        _subset(lambda _: learning_loss.learning_loss), learner=partial(learning_loss.learner, detach=0)
    ),
    "core_gcn": PaperStrategy(_subset(lambda setting: CoreGCN(setting.gcn, SPACES[setting.switches.baselines]))),
    "uncertain_gcn": PaperStrategy(_subset(lambda setting: UncertainGCN(setting.gcn))),
    "pal": PaperStrategy(_subset(lambda setting: setting.pal)),
    "ta_vaal": PaperStrategy(_subset(lambda setting: setting.ta_vaal), learner=partial(learning_loss.learner, ranking=True)),
    "pt4al": _pt4al(),
    "pt4al_low_first": _pt4al(order="low_first"),
    "pt4al_top_k": _pt4al(pt4al.highest),
    "pt4al_random_first": _pt4al(random),
    "pretext_high": _pt4al(pt4al.highest, pt4al.highest),
    "pretext_low": _pt4al(pt4al.lowest, pt4al.lowest),
    "sampling_only": PaperStrategy(lambda setting: Scoped(LossBatch(setting.batches, key="random"), acquire.STRATEGIES["entropy"])),
    "random_with_replacement": PaperStrategy(_subset(lambda _: random_with_replacement), exact=False),
}
