"""Strict execution: parameters are checked before a kernel starts, and every notebook runs at smoke scale."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Executed

import alnb
from alnb import notebook
from alnb.__main__ import main
from alnb.data import ImageSet
from alnb.loop.experiment import Cycle
from alnb.notebook import BadParameter, kernel_free, parameters
from alnb.notebook.execute import NotebookFailed, execute
from alnb.notebook.parameters import Parameter, check, parse
from alnb.papers import quickstart as factory
from alnb.report import records
from alnb.widgets import Choices, Explorer

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for p in (PROJECT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
IMPORT = re.compile("(import|from) ")
SIMILAR = {  # they take the paths through the code of another notebook, which is executed whole
    "bengar2021/figure4", "bengar2021/figure5", "yi2022/figure5b", "yi2022/figure6", "yi2022/protocols", "yi2022/table2",
}  # fmt: skip
FROM_RECORDS = {"bengar2021/figure3", "bengar2021/table1"}
KNOWN = {
    p.name: p
    for p in (
        Parameter("seeds", "list[int]", "[0]", "one run each"),
        Parameter("scale", "str", '"laptop"', ""),
        Parameter("lr", "float", "0.1", ""),
        Parameter("fast", "bool", "False", ""),
        Parameter("names", "list[str]", '["a"]', ""),
        Parameter("n", "int", "3", ""),
        Parameter("root", "str | None", "None", ""),
        Parameter("odd", "complex", "1j", ""),
    )
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([["seeds", "[0,1,2]"]], {"seeds": [0, 1, 2]}),
        ([["seeds", "0", "1"]], {"seeds": [0, 1]}),
        ([["seeds", "4"]], {"seeds": [4]}),
        ([["names", "random"], ["scale", "smoke"]], {"names": ["random"], "scale": "smoke"}),
        ([["names", "random", "margin"]], {"names": ["random", "margin"]}),
        ([["fast", "true"]], {"fast": True}),
        ([["lr", "1"]], {"lr": 1.0}),
        ([["lr", "3e-2"]], {"lr": 0.03}),
        ([["scale", "10"]], {"scale": "10"}),
        ([["n", "-5"]], {"n": -5}),
        ([["n", "010"]], {"n": 10}),
        ([["names", "10", "20"]], {"names": ["10", "20"]}),
        ([["names", '["a", "b"]']], {"names": ["a", "b"]}),
        ([["names", "['a']"], ["fast", "True"]], {"names": ["a"], "fast": True}),
        ([["root", "x"]], {"root": "x"}),
        ([["root", "null"]], {"root": None}),
        ([["root", "010"]], {"root": "010"}),
    ],
)
def test_words_become_typed_values(given: list, expected: dict) -> None:
    values = parse(given, KNOWN)
    assert values == expected and [type(v) for v in values.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([["sede", "1"]], "no parameter 'sede' .did you mean 'seeds'"),
        ([["n", "1.5"]], "parameter 'n' is 1.5, of type float: it must be int"),
        ([["n", "true"]], "parameter 'n' is True, of type bool"),
        ([["seeds", "a"]], "it must be list.int."),
        ([["fast", "1"]], "it must be bool"),
        ([["n"]], "'n' has no value"),
        ([["n", "1"], ["n", "2"]], "'n' is given twice"),
        ([["scale", "a", "b"]], "it must be str"),
        ([["seeds", "0", "1", "0"]], "names 0 twice"),
        ([["n", "0x10x"]], "it must be int"),
        ([["lr", "nan"]], "it must be float"),
        ([["odd", "1"]], "has the type complex: this command knows int, float"),
    ],
)
def test_wrong_words_are_refused(given: list, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        parse(given, KNOWN)


def test_optional_types() -> None:
    known = {"root": Parameter("root", "str | None", "None", "")}
    assert check({"root": None}, known) == {"root": None} and check({"root": "x"}, known) == {"root": "x"}
    with pytest.raises(BadParameter):
        check({"root": 3}, known)


def test_parameters_are_read_with_type_and_help(write: Callable) -> None:
    path = write('a: int = 3  # how many\nnames: list[str] = ["x", "y"]  # which\nb = 2\nc: str | None = "#f"  # colour')
    known = parameters.read(path)
    assert known["c"] == Parameter("c", "str | None", "'#f'", "colour")
    assert known["a"] == Parameter("a", "int", "3", "how many") and known["names"].annotation == "list[str]" and known["b"].annotation == ""


def test_execution_injects_and_ends_with_its_own_name(write: Callable, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = write("a: int = 3  # how many", "import sys\nprint('live', a)\nprint('bar', file=sys.stderr)")
    out = execute(path, {"a": 5}, tmp_path / "out.ipynb")
    assert out == tmp_path / "out.ipynb" and not list(tmp_path.glob("*.running.ipynb"))
    cells = nbformat.read(out, 4).cells
    assert "live 5" in cells[2]["outputs"][0]["text"]
    shown = capfd.readouterr()
    assert "live 5" in shown.out and "bar" in shown.err  # seen while it runs
    assert nbformat.read(path, 4).cells[1]["outputs"] == []  # the input stays as it was


@pytest.mark.parametrize(("cell", "message"), [("1/0", "raised ZeroDivisionError"), ("import os; os._exit(1)", "was not finished")])
def test_failure_never_looks_finished(write: Callable, tmp_path: Path, cell: str, message: str) -> None:
    path, out = write("a: int = 3  # how many", " \n", cell), tmp_path / "out.ipynb"
    with pytest.raises(NotebookFailed, match=message) as failure:
        execute(path, {"a": 4}, out)
    assert not out.exists() and (tmp_path / "out.failed.ipynb").exists() and not (tmp_path / "out.running.ipynb").exists()
    if failure.value.kind == "ZeroDivisionError":  # the number is the one that JupyterLab shows beside the cell
        cells = nbformat.read(tmp_path / "out.failed.ipynb", 4).cells
        (shown,) = [c.execution_count for c in cells if any(o.output_type == "error" for o in c.get("outputs", []))]
        assert f"cell [{shown}] of {tmp_path / 'out.failed.ipynb'}, " in str(failure.value)
        with pytest.raises(NotebookFailed, match=rf"cell \[{shown - 1}\] of {path} "):  # without the cell of injected parameters
            kernel_free.execute(path, {"a": 4})


def test_bad_notebooks(write: Callable, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="there is no notebook"):
        parameters.read(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("not json")
    with pytest.raises(BadParameter, match="is not a notebook"):
        parameters.read(tmp_path / "text.ipynb")
    with pytest.raises(BadParameter, match="has no cells of parameters: tag the cell"):
        parameters.read(write("x = 1", tag=False))


def test_names_are_checked() -> None:
    with pytest.raises(BadParameter, match=r"strategy 'entropi' is not known.*did you mean 'entropy'"):
        notebook.choose(alnb.acquire.STRATEGIES, ["random", "entropi"], "strategy")
    assert list(notebook.choose(alnb.acquire.STRATEGIES, "margin", "strategy")) == ["margin"]
    with pytest.raises(BadParameter, match=r"no strategy is named: .* random, entropy"):
        notebook.choose(alnb.acquire.STRATEGIES, [], "strategy")


def test_numbers_that_cannot_be_negative() -> None:
    notebook.not_negative(a=0, b=3)
    with pytest.raises(BadParameter, match=r"^a is -1, b is -2: give 0, or more$"):
        notebook.not_negative(a=-1, b=-2, c=1)


@pytest.mark.slow
def test_a_folder_called_as_the_package_does_not_hide_it(write: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the folder that a clone lies in."""
    path = write("a: int = 3  # how many", "import alnb\nprint(alnb.Recipe)")
    (tmp_path / "alnb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    execute(path, {}, tmp_path / "o.ipynb")


def test_devices_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert notebook.device("") == notebook.device("cpu") == "cpu"
    with pytest.raises(BadParameter, match="device is 'gpu': it must be cpu, cuda"):
        notebook.device("gpu")
    with pytest.raises(BadParameter, match=r"device is 'cuda:1', but .*no GPU"):
        notebook.device("cuda:1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert notebook.device("") == "cuda" and notebook.device("cuda:1") == "cuda:1"


# ---- the command ---------------------------------------------------------------------------------------------------------------


def test_command_line(write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write("a: int = 3  # how many\nseeds: list[int] = [0]  # which", "print(a, seeds)")
    assert main(["run", str(path), "--help-notebook"]) == 0
    assert "a: int = 3\n      how many" in capsys.readouterr().out
    assert main(["run", str(path), "-p", "sedes", "1"]) == 2
    assert "did you mean 'seeds'" in capsys.readouterr().err
    assert main(["run", str(path), "-p", "a", "7", "-p", "seeds", "1", "2", "-o", str(tmp_path / "o.ipynb")]) == 0
    assert "7 [1, 2]" in nbformat.read(tmp_path / "o.ipynb", 4).cells[2]["outputs"][0]["text"]
    assert main(["data", "cifar11"]) == 1
    assert "cifar10" in capsys.readouterr().err


# ---- the notebooks of the project ----------------------------------------------------------------------------------------------


def named(path: Path) -> str:
    return path.relative_to(PROJECT / "notebooks").with_suffix("").as_posix()


def smoke_values(path: Path, folder: Path) -> dict[str, Any]:
    """The whole figure, or where another notebook has the same code one strategy, one seed, one of everything."""
    values = {"scale": "smoke", "runs": str(folder / "runs"), "figures": str(folder / "figures"), "seeds": [0, 1], "device": "cpu"}
    known = parameters.read(path)
    if named(path) in SIMILAR:
        for name, parameter in known.items():
            if parameter.annotation.startswith("list") and (items := ast.literal_eval(parameter.default)):
                values[name] = items[-1:]
    return {name: value for name, value in values.items() if name in known}


def check_executed(path: Path, copy: Path, folder: Path) -> list[Path]:
    """That there is a figure, in the copy and in a file of its own, and a record. Returns the figures."""
    figures = list((folder / "figures").glob("*.png")) or list(folder.rglob("*.png"))  # a part's are beside its runs
    assert figures and all(5_000 < figure.stat().st_size < 300_000 for figure in figures)
    assert copy.stat().st_size < 2_000_000
    if named(path) == "yi2022/figure2":  # it labels nothing, and leaves a comparison for each seed
        assert list((folder / "runs").rglob("compared-*.json"))
    elif "seeds" in parameters.read(path):
        assert json.loads(next((folder / "runs").rglob("record.json")).read_text())["n_labelled"] > 0
    assert any(o.get("data", {}).get("image/png") for cell in nbformat.read(copy, 4).cells for o in cell.get("outputs", []))
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in ("report", "quickstart")], ids=named)
def test_every_notebook_at_smoke_scale(path: Path, tmp_path: Path) -> None:
    """A part of a figure is drawn beside its runs. The whole is drawn from records alone, too, as on a laptop to which those of a GPU
    were brought: without images, backbone and features.
    """
    values = smoke_values(path, tmp_path)
    (figure, *_) = check_executed(path, execute(path, values, tmp_path / "out.ipynb"), tmp_path)
    if named(path) in SIMILAR:
        assert not (tmp_path / "figures").exists(), "a part replaced the figure of the whole"
    if named(path) in FROM_RECORDS:
        records = sorted((tmp_path / "runs").rglob("record.json"))
        drawn, before = figure.read_bytes(), [record.stat().st_mtime_ns for record in records]
        for tensors in (tmp_path / "runs").rglob("*.pt"):
            tensors.unlink()
        figure.unlink()
        execute(path, {**values, "device": "meta"}, tmp_path / "again.ipynb")  # a device without any data
        assert figure.read_bytes() == drawn and [record.stat().st_mtime_ns for record in records] == before


@pytest.mark.slow
def test_a_part_of_a_sweep_and_then_the_whole(quickstart: Executed) -> None:
    """Of the quickstart, which has no other test at smoke scale."""
    check_executed(PROJECT / "notebooks/quickstart.ipynb", quickstart.whole, quickstart.folder)
    assert [path.is_relative_to(quickstart.folder / "runs") for path in quickstart.part_figures] == [True]
    assert len(quickstart.part) == 3 and len(quickstart.records) == 12 and quickstart.part.items() <= quickstart.records.items()
    assert list((quickstart.folder / "figures").glob("*.png"))


@pytest.mark.slow
def test_the_explorer_makes_the_records_of_the_executed_quickstart(quickstart: Executed, tmp_path: Path) -> None:
    """Bit for bit: each run that the kernel computed whole, the explorer computes again here, in its own folder, a click at a time."""
    executed = {run.path.name: run for run in records.runs(quickstart.folder / "runs") if run.records()}
    for seed in (0, 1):
        choices = Choices("digits", quickstart.arm, "margin", "random", "smoke", seed, "pixels")
        explorer = Explorer(factory, choices, runs=tmp_path, background=False, device="cpu")
        while not explorer.buttons["step"].disabled:
            explorer.buttons["step"].click()
        for trail in explorer.trails:
            run = executed.pop(trail.run.path.name)
            assert run.manifest is not None and run.manifest["experiment"] == (trail.run.manifest or {})["experiment"]
            assert [Cycle.read(record).reproducible for record in run.records()] == [cycle.reproducible for cycle in trail.cycles]
        explorer.close()
    assert not executed


def test_a_scale_that_does_not_exist_is_the_same_error_everywhere() -> None:
    checked = [path for path in NOTEBOOKS if "scale" in parameters.read(path) and named(path) not in ("label", "teach")]
    for path in checked:
        with pytest.raises(NotebookFailed, match=r"scale 'huge'.*smoke, laptop, .*paper") as error:
            kernel_free.examine(path, {"scale": "huge"})
        assert error.value.kind == "BadParameter", path
    assert {path.parent.name for path in checked} == {"notebooks", "bengar2021", "yi2022"}


@pytest.mark.slow
def test_the_report_of_runs_from_anywhere(train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    for strategy, seed in product(("random", "margin", "entropy"), range(5)):
        choose, answers, protocol = (
            alnb.acquire.STRATEGIES[strategy],
            alnb.oracle.simulated(train.targets),
            alnb.Protocol(6, 3, 3, seed=seed),
        )
        experiment = alnb.Experiment(alnb.Pool.of(train.images), test, learner, choose, answers, protocol)
        list(alnb.cycles(tmp_path / f"runs/{strategy}{seed}", experiment))
    (tmp_path / "runs/random1/cycle_002/record.json").unlink()
    out = execute(PROJECT / "notebooks/report.ipynb", {"runs": str(tmp_path / "runs"), "figures": str(tmp_path)}, tmp_path / "out.ipynb")
    figures = {path.stem: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(figures) == {"curves-1", "areas", "wins", "time-1", "classes-1"} and all(5_000 < size < 300_000 for size in figures.values())
    printed = "".join(o.get("text", "") for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", []))
    assert "14 finished runs" in printed and "1 unfinished" in printed and "1 tests" in printed and out.stat().st_size < 2_000_000


@pytest.mark.slow
def test_quickstart_on_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from PIL import Image

    for label in range(3):
        (tmp_path / f"images/class{label}").mkdir(parents=True)
        for k in range(14):
            grey = Image.new("L", (20 + k, 16), 60 * label + k)
            grey.save(tmp_path / f"images/class{label}/{k}.png")
    (tmp_path / "images/class1/broken.jpg").write_bytes(b"no image")
    quickstart, out = str(PROJECT / "notebooks/quickstart.ipynb"), str(tmp_path / "out.ipynb")
    places = {"dataset": str(tmp_path / "images"), "runs": str(tmp_path / "runs"), "figures": str(tmp_path)}
    given = {**places, "image_size": "16", "scale": "smoke"}
    words = [word for name, value in {**given, "device": "cpu"}.items() for word in ("-p", name, value)]
    few = ["-p", "strategies", "random", "margin", "-p", "seeds", "0"]
    assert main(["run", quickstart, *words, *few, "-o", out]) == 1
    assert "broken.jpg" in capsys.readouterr().err and not Path(out).exists()
    assert main(["run", quickstart, *words, *few, "-o", out, "--skip-bad"]) == 0
    assert len(list((tmp_path / "runs").rglob("record.json"))) == 2 * 2 * 3


@pytest.mark.slow
def test_interrupted_by_the_keyboard(write: Callable, tmp_path: Path) -> None:
    path, out = write("a: int = 3  # how many", "print('running', flush=True)\nimport time\ntime.sleep(60)"), tmp_path / "o.ipynb"
    command = [sys.executable, "-m", "alnb", "run", str(path), "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and "running\n" in iter(process.stdout.readline, "")
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: to the command and its kernel
        errors = process.communicate(timeout=30)[1]
    (message,) = filter(None, errors.splitlines())  # ours, and no traceback of a library
    assert process.returncode == 130 and message.startswith("interrupted: ")
    assert not out.exists() and not (tmp_path / "o.running.ipynb").exists() and (tmp_path / "o.failed.ipynb").exists()


PAPERS = [path for path in NOTEBOOKS if path.parent.name in ("bengar2021", "yi2022")]
LINES, LINES_OF_PAPERS = 100, 60  # of code in a notebook, at most
LONG, REPEATED = 25, 0.1  # a line of more characters counts; the share of such lines that stand in two notebooks, at most


def tags_of(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def code_lines(path: Path) -> list[tuple[str, list[str]]]:
    """The lines of code of a notebook, stripped, with the tags of their cells. Empty lines and comments do not count."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    lines = [(line.strip(), tags_of(cell)) for cell in cells for line in cell.source.splitlines()]
    return [(line, tags) for line, tags in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebook_hygiene(path: Path) -> None:
    content = nbformat.read(path, 4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len(code_lines(path)) <= (LINES_OF_PAPERS if path in PAPERS else LINES)
    assert content.cells[0].source.startswith("# ") and sum("parameters" in tags_of(cell) for cell in code) == 1
    assert not any(line.startswith("class ") for cell in code for line in cell.source.splitlines())
    assert all(p.annotation and p.help for p in parameters.read(path).values())
    assert set(content.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", PAPERS, ids=named)
def test_a_papers_notebook_is_a_document(path: Path) -> None:
    """The idea with a formula and a picture, the experiment in the open, the figure, the claims, and what did not come out."""
    cells = nbformat.read(path, 4).cells
    code, text = ("\n".join(cell.source for cell in cells if cell.cell_type == kind) for kind in ("code", "markdown"))
    assert "**The idea.**" in cells[0].source and cells[0].source.count("$$") == 2 and 90 <= len(cells[0].source.split()) <= 230
    ideas = [cell.source for cell in cells[1:5] if "report" in tags_of(cell)]
    assert len(ideas) == 1 and "plt.subplots(" in ideas[0]
    assert "## What did not come out" in text
    if path.stem != "advisor":  # it runs nothing
        assert "\ndef experiment(" in code and "page.show(" in code and text.count("## The claim") == 1
    if named(path) not in ("bengar2021/advisor", "yi2022/figure2"):  # Figure 2 labels nothing
        assert all(name in code for name in ("alnb.Experiment(", "alnb.Protocol(", "finished = "))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all notebooks, so that each pretext is learned once."""
    return tmp_path_factory.mktemp("pretrained")


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAPERS if named(path) not in ("bengar2021/advisor", "yi2022/figure2")], ids=named)
def test_the_experiment_in_the_open_is_that_of_the_package(path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its preset as released too: benchmarks and other notebooks find the same runs."""
    asked: list[tuple[Any, Callable[[Any], alnb.Experiment]]] = []
    monkeypatch.setattr("alnb.papers.jobs.run", lambda jobs, experiment, runs: asked.append((jobs, experiment)) or [])
    values = {"scale": "smoke", "runs": str(pretrained), "figures": str(pretrained / "figures"), "seeds": [1], "device": "cpu"}
    names: dict[str, Any] = {}
    for source in parameters.code_cells(path):
        if "report" not in source.tags:
            exec(compile(source.text, f"{path.name}, cell {source.number}", "exec"), names)
        if "parameters" in source.tags:
            released = {"preset": "as_released"} if path.parent.name == "yi2022" else {"preset": "strong"}
            names.update({name: value for name, value in {**values, **released}.items() if name in names})
    package, data = names.get("bengar") or names["yi"], names["data"]
    prepared = {one.setting.digest: one for one in (data.values() if isinstance(data, dict) else [data])}
    every = [(job, experiment) for jobs, experiment in asked for job in jobs]
    assert every
    for job, experiment in every:
        assert experiment(job).manifest == package.experiment(prepared[job["setting"]], job).manifest, job


def test_few_lines_stand_in_two_notebooks() -> None:
    lines = {
        path: [line for line, tags in code_lines(path) if len(line) > LONG and "parameters" not in tags and not IMPORT.match(line)]
        for path in NOTEBOOKS
    }
    places = Counter(line for one in lines.values() for line in set(one))
    repeated = [line for one in lines.values() for line in one if places[line] > 1]
    share = len(repeated) / sum(map(len, lines.values()))
    assert share <= REPEATED, f"{share:.1%} of the lines stand in two notebooks, such as {Counter(repeated).most_common(5)}"
