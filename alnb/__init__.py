"""Reproducible notebooks for deep active learning on images."""

from alnb import acquire, data, store
from alnb.acquire.query import Pool, Query
from alnb.data import ImageSet
from alnb.learn import augment, metrics, nets, pretrain, train
from alnb.learn.task import Task
from alnb.learn.train import Learner, Recipe
from alnb.loop import oracle
from alnb.loop.cycles import cycles
from alnb.loop.experiment import Cycle, Experiment, Protocol
from alnb.notebook.sweep import sweep
from alnb.report import records
from alnb.report.records import load
from alnb.store import Run, Stream
from alnb.store import streams as rng

__all__ = [
    "Cycle",
    "Experiment",
    "ImageSet",
    "Learner",
    "Pool",
    "Protocol",
    "Query",
    "Recipe",
    "Run",
    "Stream",
    "Task",
    "acquire",
    "augment",
    "cycles",
    "data",
    "load",
    "metrics",
    "nets",
    "oracle",
    "pretrain",
    "records",
    "rng",
    "store",
    "sweep",
    "train",
]
