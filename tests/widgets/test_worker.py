"""One job at a time in the background, stopped, and its errors shown."""

import threading
import time

import pytest

from alnb.store import stop
from alnb.widgets.worker import Worker


class Recorder:
    def __init__(self, background: bool = True) -> None:
        self.busy: list[bool] = []
        self.problems: list[str] = []
        self.worker = Worker("test", background=background, busy=self.busy.append, problem=self.problems.append)


def test_a_second_job_is_ignored_while_one_runs() -> None:
    recorder, go, did = Recorder(), threading.Event(), []
    recorder.worker.do(lambda: did.append(go.wait(20)))
    recorder.worker.do(lambda: did.append("second"))
    assert recorder.busy == [True] and recorder.worker.working
    go.set()
    recorder.worker.wait()
    recorder.worker.do(lambda: did.append("third"))
    recorder.worker.wait()
    assert did == [True, "third"] and recorder.busy == [True, False, True, False] and not recorder.worker.working


def test_a_job_requested_right_after_another_ended_is_done() -> None:
    """The worker reports that it is idle before its thread has ended; a job requested then must not be lost."""
    did: list[int] = []
    recorder = Recorder()
    for k in range(200):
        recorder.busy.clear()
        recorder.worker.do(lambda k=k: did.append(k))
        until = time.monotonic() + 60
        while recorder.busy != [True, False] and time.monotonic() < until:
            pass
    recorder.worker.wait()
    assert did == list(range(200))


@pytest.mark.parametrize("background", [True, False])
def test_a_stop_ends_one_job_only(background: bool) -> None:
    recorder, ended = Recorder(background), []

    def job() -> None:
        recorder.worker.stop()
        assert recorder.worker.stopping
        stop.check("here")

    recorder.worker.do(job, lambda: ended.append("stopped"))
    recorder.worker.wait()
    assert ended == ["stopped"] and recorder.problems == [""] and recorder.busy == [True, False]
    recorder.worker.do(lambda: stop.check("a stop is of one job"), lambda: ended.append("again"))
    recorder.worker.wait()
    assert ended == ["stopped"]


def test_errors_are_shown_and_bugs_are_named() -> None:
    recorder = Recorder(background=False)

    def fails(error: Exception) -> None:
        raise error

    recorder.worker.do(lambda: fails(ValueError("seed -1: choose another")))
    assert recorder.problems == ["", "seed -1: choose another"]
    with pytest.raises(KeyError):
        recorder.worker.do(lambda: fails(KeyError("x")))
    assert recorder.problems[-1].startswith("KeyError: 'x' (this is a bug") and recorder.busy == [True, False] * 2
