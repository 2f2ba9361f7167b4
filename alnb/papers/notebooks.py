"""What the code cells of the papers' notebooks share: where things lie, the runs in one line, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alnb import notebook, store
from alnb.acquire.query import Pool
from alnb.loop import oracle
from alnb.loop.experiment import Experiment
from alnb.papers import jobs
from alnb.papers.experiment import runs_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Page:
    """A paper's notebook that is executed with certain parameters."""

    paper: str
    figure: str
    scale: str
    runs: Path  # of this paper at this scale
    figures: Path  # of the project if all runs of the figure were asked for, else beside the runs
    source: Mapping[str, Any]  # root, device and download, as `data.load` takes them

    def data(self, setting: Any) -> Any:
        """The images of `setting`, and what is learned from them without labels. Nothing is read before it is used."""
        return import_module(f"alnb.papers.{self.paper}.experiment").prepare(setting, self.runs, **self.source)

    def run(self, wanted: Iterable[jobs.Job], experiment: Callable[[jobs.Job], Experiment]) -> list[jobs.TaggedRun]:
        """The finished runs of the jobs `wanted`: see `jobs.run`."""
        return jobs.run(wanted, experiment, self.runs)

    def title(self, frame: DataFrame) -> str:
        """What a figure shows: data set, size of the pool, scale."""
        return f"{frame['dataset'].iloc[0]}, {frame['pool'].iloc[0]:,} images, scale {self.scale}"

    def show(self, figure: Figure, runs: DataFrame | str, part: str = "") -> None:
        """Save `figure` as PAPER-FIGURE-PART-SCALE.png, and display it. `runs`: what it shows, as `figures.save` takes it."""
        from IPython.display import Image, display

        from alnb.report.figures import save

        text = f"{runs if isinstance(runs, str) else ', '.join(runs['setting'].unique())}; commit {store.commit()}"
        path = self.figures / f"{'-'.join(filter(None, (self.paper, self.figure, part, self.scale)))}.png"
        save(figure, path, f"{', '.join(filter(None, (self.paper, self.figure)))}; setting {text}", text if isinstance(runs, str) else runs)
        display(Image(path.read_bytes()))
        print(f"records: {self.runs}\nfigure:  {path}")


def page(name: str, parameters: Mapping[str, Any], *, but: Iterable[str] = ()) -> Page:
    """The notebook `name`, such as "yi2022/figure3" or "which_strategy", with its `parameters`; `but`: those in the figure's file name.

    Raises: notebook.BadParameter: a parameter has the wrong type, there is no such device, or the paper's experiment has no such scale.
    """
    notebook.check(parameters)
    (paper, _, figure), full = name.partition("/"), jobs.is_full_figure(name, parameters, but=but)
    notebook.choose(import_module(f"alnb.papers.{paper}.experiment").SCALES, parameters["scale"], "scale")
    runs, figures = runs_folder(paper, parameters["scale"], parameters["runs"]), parameters["figures"] or store.workspace() / "figures"
    source = {"root": parameters["data_root"] or None, "device": notebook.device(parameters["device"]), "download": parameters["download"]}
    return Page(paper, figure, parameters["scale"], runs, Path(figures) if full else runs / "figures", source)


def shared(data: Any, job: jobs.Job) -> dict[str, Any]:
    """What every experiment on `data` needs, as arguments of `Experiment`: images, answers, tags, and what strategies know besides."""
    data = data.of(job)
    pool, test = data.images_of(job)
    side = data.side(job["pretext"]) if "pretext" in job else {}
    return {"pool": Pool.of(pool), "test": test, "oracle": oracle.simulated(data.pool.targets), "tags": data.tags(job), "side": side}


def show_claims(table: DataFrame) -> None:
    """Display claims as a table, then the verdicts, a line each."""
    from IPython.display import display

    shown = table.rename(columns={"p": "p (two-sided, Holm)"}).style.hide().format("{:.2g}", "p (two-sided, Holm)", na_rep="–")
    display(shown.set_properties(**{"text-align": "left", "white-space": "pre-wrap"}))
    print(*(f"{row.claim}: {row.verdict}" for row in table.itertuples()), sep="\n")


def last_cycles(frame: DataFrame, *by: str) -> Any:
    """The accuracy at the end of each curve, as a table to display: mean, standard deviation and number of replications."""
    from alnb.report.stats import replications

    last = replications(frame[frame["cycle"] == frame["cycle"].max()]).groupby([*by, "strategy", "n_labelled"], sort=False)["accuracy"]
    return last.agg(["mean", "std", "count"]).style.format("{:.1%}", subset=["mean", "std"], na_rep="–")
