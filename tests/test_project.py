"""What holds for the repository as a whole."""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def test_environment_offers_the_same_packages() -> None:
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    offered = set(conda[-1]["pip"]) - {"-c constraints.txt", "-e ."}
    extra = PYPROJECT["project"]["optional-dependencies"]
    assert offered == {*PYPROJECT["project"]["dependencies"], *extra["test"], *extra["cluster"]} - {"alnb[cluster]"}
    assert f"python{PYPROJECT['project']['requires-python']}" in conda


def test_every_package_is_pinned_and_no_host_is_named() -> None:
    lines = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {re.sub("[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    extra = PYPROJECT["project"]["optional-dependencies"]
    wanted = {re.split("[<>=]", package)[0] for package in [*PYPROJECT["project"]["dependencies"], *chain(*extra.values())]}
    assert wanted - {"alnb[cluster]"} <= pinned


def test_layers() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(program), "--no-cache"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_import_brings_in_no_notebook_machinery() -> None:
    heavy = "{'torchvision', 'sklearn', 'pandas', 'matplotlib', 'seaborn', 'papermill', 'IPython', 'scipy', 'PIL', 'tqdm'}"
    script = (
        f"import sys, torch; before = set(sys.modules); import alnb; print({heavy} & (set(sys.modules) - before), alnb.records.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set() alnb.report.records"


def test_style_rules_that_no_linter_has() -> None:
    for path in (PROJECT / "alnb").rglob("*.py"):
        text = path.read_text()
        assert path.name not in ("utils.py", "common.py", "helpers.py")
        assert ".cuda()" not in text and "hasattr(" not in text and "import *" not in text, path


def test_no_machine_path_is_written_down() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.splitlines():
        path = PROJECT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json"}:
            assert not re.search(r"/(home|root|Users|work)/[a-z]", path.read_text()), name


def test_citation_and_licence() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == PYPROJECT["project"]["version"] and citation["license"] == PYPROJECT["project"]["license"] == "MIT"
    assert (PROJECT / "LICENSE").read_text().startswith("MIT License")
    assert [work["year"] for work in citation["references"]] == [2021, 2022]
