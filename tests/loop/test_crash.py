"""Processes that are really killed leave runs that really end with the same records."""

import json
import subprocess
import sys
from pathlib import Path

CRASH = Path(__file__).parents[1] / "crash.py"


def crash(folder: Path, *arguments: str) -> dict:
    done = subprocess.run([sys.executable, str(CRASH), str(folder), *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict = json.loads(done.stdout.splitlines()[-1])
    return result


def test_killed_at_random_instants(tmp_path: Path) -> None:
    result = crash(tmp_path, "random", "24")
    assert result["kills"] >= 24 and result["completed"] >= 1


def test_ended_at_every_file_operation(tmp_path: Path) -> None:
    result = crash(tmp_path, "points")
    assert result["kills"] >= 50
