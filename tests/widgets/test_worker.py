"""One thing at a time in the background, stopped, and its problems told."""

import threading
import time

import pytest

from alnb.store import stop as pause
from alnb.widgets.worker import Worker


class Told:
    def __init__(self, background: bool = True) -> None:
        self.busy: list[bool] = []
        self.problems: list[str] = []
        self.worker = Worker("test", background=background, busy=self.busy.append, problem=self.problems.append)


def test_a_second_job_is_not_begun_while_one_is_done() -> None:
    told, go, did = Told(), threading.Event(), []
    told.worker.do(lambda: did.append(go.wait(20)))
    told.worker.do(lambda: did.append("second"))
    assert told.busy == [True] and told.worker.working
    go.set()
    told.worker.wait()
    told.worker.do(lambda: did.append("third"))
    told.worker.wait()
    assert did == [True, "third"] and told.busy == [True, False, True, False] and not told.worker.working


def test_a_job_that_is_asked_for_when_one_has_ended_is_done_at_once() -> None:
    """Whoever is told that nothing is done any more may begin, though the thread has not ended yet."""
    did: list[int] = []
    told = Told()
    for k in range(200):
        told.busy.clear()
        told.worker.do(lambda k=k: did.append(k))
        until = time.monotonic() + 60
        while told.busy != [True, False] and time.monotonic() < until:
            pass
    told.worker.wait()
    assert did == list(range(200))


@pytest.mark.parametrize("background", [True, False])
def test_stopped_and_gone_on(background: bool) -> None:
    told, ended = Told(background), []

    def job() -> None:
        told.worker.stop()
        assert told.worker.stopping
        pause.check("here")

    told.worker.do(job, lambda: ended.append("stopped"))
    told.worker.wait()
    assert ended == ["stopped"] and told.problems == [""] and told.busy == [True, False]
    told.worker.do(lambda: pause.check("a stop is of one job"), lambda: ended.append("again"))
    told.worker.wait()
    assert ended == ["stopped"]


def test_problems_are_told_and_bugs_are_called_so() -> None:
    told = Told(background=False)

    def fails(error: Exception) -> None:
        raise error

    told.worker.do(lambda: fails(ValueError("seed -1: choose another")))
    assert told.problems == ["", "seed -1: choose another"]
    with pytest.raises(KeyError):
        told.worker.do(lambda: fails(KeyError("x")))
    assert told.problems[-1] == "KeyError: 'x' (this is a bug; what is on disk is kept)" and told.busy == [True, False] * 2
