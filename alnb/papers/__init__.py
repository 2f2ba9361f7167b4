"""The papers' experiments. ``from alnb import papers`` gives what their notebooks share."""

from alnb.papers.experiment import Scale, Supervised, at_scale, runs_folder, supervised
from alnb.papers.jobs import cached_result, find, is_full_figure, progress, run, run_of
