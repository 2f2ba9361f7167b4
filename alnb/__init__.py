"""Reproducible notebooks for deep active learning on images."""

from alnb import acquire, augment, data, loop, metrics, nets, oracle, pool, pretrain, records, rng, store, train
from alnb.data import ImageSet
from alnb.loop import Cycle, Protocol, cycles
from alnb.oracle import Pending
from alnb.pool import Pool, Query
from alnb.records import load
from alnb.store import Run
from alnb.sweeps import sweep
from alnb.train import Learner, Recipe

__all__ = [
    "Cycle",
    "ImageSet",
    "Learner",
    "Pending",
    "Pool",
    "Protocol",
    "Query",
    "Recipe",
    "Run",
    "acquire",
    "augment",
    "cycles",
    "data",
    "load",
    "loop",
    "metrics",
    "nets",
    "oracle",
    "pool",
    "pretrain",
    "records",
    "rng",
    "store",
    "sweep",
    "train",
]
