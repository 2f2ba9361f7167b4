"""Reproducible notebooks for deep active learning on images."""

from importlib import import_module
from typing import Any

from alnb import acquire, data, store
from alnb.acquire.query import Pool, Query
from alnb.data import ImageSet
from alnb.learn import augment, metrics, nets, pretrain, train
from alnb.learn.task import Task
from alnb.learn.train import Learner, Recipe
from alnb.loop import oracle
from alnb.loop.cycles import cycles
from alnb.loop.experiment import Cycle, Experiment, Protocol
from alnb.store import Run, Stream

LAZY = {"load": "alnb.report.records", "records": "alnb.report", "sweep": "alnb.notebook.sweep"}  # they import pandas, or Jupyter


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'alnb' has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)


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
    "store",
    "sweep",
    "train",
]
