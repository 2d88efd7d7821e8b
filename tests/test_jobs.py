"""Jobs are done one lane each, told, cancelled, recorded, and taken up by the next process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.steady import Stopwatch, wait_until
from tests.trainings import ROOT
from utils.errors import UserError
from utils.media import MediaError
from web.errors import NotFound
from web.jobs import MAX_ATTEMPTS, Handle, Job, Jobs, TooManyJobs


@pytest.fixture
def made(tmp_path):
    """Makes Jobs of a folder with these kinds, started; all are stopped in the end."""
    every = []

    def make(max_jobs: int = 100, start: bool = True, **kinds) -> Jobs:
        jobs = Jobs(tmp_path / "jobs", max_jobs)
        for name, (run, how) in kinds.items():
            jobs.kind(name, run, **{"lane": "compute", **how})
        every.append(jobs)
        if start:
            jobs.start()
        return jobs

    yield make
    for jobs in every:
        jobs.stop(1)


def ended(jobs: Jobs, job: Job) -> Job:
    wait_until(lambda: not jobs.find(job.id).is_open)
    return jobs.find(job.id)


def running(jobs: Jobs, job: Job) -> Job:
    wait_until(lambda: jobs.find(job.id).state != "queued")
    return jobs.find(job.id)


def double(handle: Handle, arguments: dict) -> dict:
    handle.report(0.5, "half of it")
    return {"twice": 2 * arguments["number"]}


def until_cancelled(handle: Handle, _: dict) -> None:
    while True:
        handle.check()
        time.sleep(0.01)


def record(tmp_path: Path, job: Job) -> dict:
    return json.loads((tmp_path / "jobs" / f"{job.id}.json").read_bytes())


def test_job_is_done_and_recorded_with_its_result(made, tmp_path):
    jobs = made(double=(double, {}))
    job = jobs.submit("double", {"number": 4}, title="Twice four", recording="abc")
    assert (job.state, job.progress, job.result) == ("queued", None, None)
    done = ended(jobs, job)
    assert (done.state, done.progress, done.result, done.error) == ("done", 1.0, {"twice": 8}, None)
    assert done.created_at <= done.started_at <= done.ended_at
    assert record(tmp_path, job)["result"] == {"twice": 8}
    told = done.to_api()
    assert told["recording"] == "abc"
    assert "arguments" not in told


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MediaError("game.ts holds no\nvideo"), "game.ts holds no video"),
        (UserError("do this"), "do this"),
        (OSError(28, "No space left on device", "/x"), "the disk is full"),
        (KeyError("k"), "KeyError: 'k'"),
        (None, "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_job_that_fails_says_why_in_a_line_and_the_next_one_is_done(made, error, line):
    def fail(handle, arguments):
        if error is not None:
            raise error
        return {"a set": {1}}

    jobs = made(fail=(fail, {}), double=(double, {}))
    failed = jobs.submit("fail", {}, title="")
    after = jobs.submit("double", {"number": 1}, title="")
    found = ended(jobs, failed)
    assert found.state == "failed"
    assert line in found.error
    assert "\n" not in found.error
    assert ended(jobs, after).state == "done"


def test_the_same_work_is_not_queued_twice(made):
    jobs = made(wait=(until_cancelled, {}))
    first = jobs.submit("wait", {"recording": "a"}, title="")
    running(jobs, first)
    second = jobs.submit("wait", {"recording": "b"}, title="")
    assert jobs.submit("wait", {"recording": "a"}, title="").id == first.id
    assert jobs.submit("wait", {"recording": "b"}, title="").id == second.id
    jobs.cancel(first.id)
    ended(jobs, first)
    assert jobs.submit("wait", {"recording": "a"}, title="").id != first.id


def test_jobs_are_in_the_order_in_which_they_came_whatever_the_clock_says(made, monkeypatch):
    jobs = made(wait=(until_cancelled, {}))
    times = [5e18, 5e18, 4e18, 4e18, 6e18]
    monkeypatch.setattr("web.jobs.time.time_ns", lambda: int(times.pop(0)))
    came = [jobs.submit("wait", {"number": number}, title="").id for number in range(5)]
    assert [job.id for job in jobs.all()] == came[::-1]
    assert [job.id for job in jobs.open()] == came


def test_only_so_many_jobs_wait(made):
    jobs = made(max_jobs=3, wait=(until_cancelled, {}))
    for number in range(3):
        jobs.submit("wait", {"number": number}, title="")
    with pytest.raises(TooManyJobs, match="3 jobs are waiting.*cancel"):
        jobs.submit("wait", {"number": 3}, title="")
    assert len(jobs.all()) == 3


def test_lanes_do_not_wait_for_each_other_and_each_keeps_to_its_number(made):
    at_once, most, lock, pair = [0], [0], threading.Lock(), threading.Barrier(2)

    def count(handle, arguments):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        pair.wait(60)  # so there are two
        with lock:
            at_once[0] -= 1

    jobs = made(wait=(until_cancelled, {}), look=(count, {"lane": "media"}))
    blocking = jobs.submit("wait", {}, title="")
    looks = [jobs.submit("look", {"number": number}, title="") for number in range(8)]
    assert [ended(jobs, job).state for job in looks] == ["done"] * 8
    assert most[0] == 2
    assert running(jobs, blocking).state == "running"


def test_cancelling_ends_what_runs_and_what_waits(made, tmp_path):
    called = threading.Event()

    def wait(handle, arguments):
        handle.on_cancel(called.set)
        until_cancelled(handle, arguments)

    jobs = made(wait=(wait, {}))
    first, second = (jobs.submit("wait", {"number": n}, title="") for n in (1, 2))
    running(jobs, first)
    assert jobs.cancel(second.id).state == "cancelled"
    jobs.cancel(first.id)
    assert ended(jobs, first).state == "cancelled"
    assert called.is_set()
    assert jobs.cancel(first.id).state == "cancelled"
    assert record(tmp_path, second)["state"] == "cancelled"
    with pytest.raises(NotFound):
        jobs.cancel("no-such-job")


def test_job_that_is_done_as_it_is_cancelled_stays_done(made):
    inside, go = threading.Event(), threading.Event()

    def stubborn(handle, arguments):
        inside.set()
        go.wait(60)
        return {"all": True}

    jobs = made(stubborn=(stubborn, {}))
    job = jobs.submit("stubborn", {}, title="")
    assert inside.wait(60)
    jobs.cancel(job.id)
    go.set()
    assert ended(jobs, job).state == "done"


def test_listeners_hear_each_state_and_some_of_the_progress(made):
    heard = []

    def steps(handle, arguments):
        for step in range(1000):
            handle.report(step / 1000, f"step {step}")

    jobs = made(steps=(steps, {}))
    with jobs.listening(heard.append):
        job = ended(jobs, jobs.submit("steps", {}, title=""))
    states = [job.state for job in heard]
    assert states[:2] == ["queued", "running"]
    assert states[-1] == "done"
    assert 1 <= sum(job.progress is not None for job in heard) < 50  # the pages are not flooded
    assert jobs.all() == [job]


def test_stopping_interrupts_and_the_next_start_goes_on(made, tmp_path):
    jobs = made(wait=(until_cancelled, {}), once=(until_cancelled, {"resumable": False}))
    first = jobs.submit("wait", {"number": 1}, title="")
    waiting = jobs.submit("wait", {"number": 2}, title="")
    running(jobs, first)
    with Stopwatch() as watch:
        jobs.stop()
    assert watch.seconds < 2
    assert record(tmp_path, first)["state"] == "interrupted"
    assert record(tmp_path, waiting)["state"] == "queued"

    again = made(wait=(lambda handle, arguments: arguments, {}))
    assert ended(again, first).result == {"number": 1}
    assert ended(again, waiting).result == {"number": 2}


def test_orderly_stops_are_no_attempts(made):
    for _ in range(MAX_ATTEMPTS + 1):
        jobs = made(wait=(until_cancelled, {}))
        running(jobs, jobs.submit("wait", {}, title=""))
        jobs.stop()
    jobs = made(wait=(lambda handle, arguments: {}, {}))
    assert ended(jobs, jobs.all()[0]).state == "done"


def test_job_that_can_not_be_done_again_stays_interrupted(made):
    jobs = made(once=(until_cancelled, {"resumable": False}))
    job = running(jobs, jobs.submit("once", {}, title=""))
    jobs.stop()
    again = made(once=(until_cancelled, {"resumable": False}))
    assert again.find(job.id).state == "interrupted"


def test_stop_does_not_wait_for_what_does_not_notice(made, tmp_path):
    go = threading.Event()
    jobs = made(deaf=(lambda handle, arguments: go.wait(), {}))
    job = running(jobs, jobs.submit("deaf", {}, title=""))
    with Stopwatch() as watch:
        jobs.stop(0.2)  # which returns, though the job goes on
    go.set()
    assert watch.seconds < 2
    assert record(tmp_path, job)["state"] == "interrupted"


def test_job_of_a_killed_process_is_taken_up_until_it_seems_to_be_what_kills(made, tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from web.jobs import Jobs
def wait(handle, arguments):
    print("inside", flush=True)
    time.sleep(60)
jobs = Jobs(Path({str(tmp_path / "jobs")!r}), 10)
jobs.kind("wait", wait, lane="compute")
jobs.start()
jobs.submit("wait", {{"number": 1}}, title="it")
time.sleep(60)
"""
    for _ in range(MAX_ATTEMPTS):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"inside\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    jobs = made(wait=(double, {}))
    (job,) = jobs.all()
    assert job.state == "failed"
    assert f"killed {MAX_ATTEMPTS} times" in job.error


def test_two_processes_do_not_share_a_folder(made):
    made(double=(double, {}))
    with pytest.raises(UserError, match="another serve.py works in .*--cache-dir"):
        made(double=(double, {}))


def test_damaged_records_are_forgotten(made, tmp_path):
    (tmp_path / "jobs").mkdir()
    for name, text in {"a": "{", "b": "[]", "c": '{"id": "c"}', "d": "null", "x": "{}"}.items():
        (tmp_path / "jobs" / f"{name}.json").write_text(text)
    jobs = made(double=(double, {}))
    assert jobs.all() == []
    assert ended(jobs, jobs.submit("double", {"number": 1}, title="")).state == "done"


def test_job_of_a_kind_that_is_no_more_is_interrupted(made):
    jobs = made(wait=(until_cancelled, {}))
    job = jobs.submit("wait", {}, title="")
    running(jobs, job)
    jobs.stop()
    assert made(double=(double, {})).find(job.id).state == "interrupted"


def test_old_jobs_are_forgotten_and_open_ones_never(made, tmp_path, monkeypatch):
    monkeypatch.setattr("web.jobs.KEPT_JOBS", 5)
    jobs = made(double=(double, {}), wait=(until_cancelled, {"lane": "train"}))
    waiting = jobs.submit("wait", {}, title="")
    for number in range(12):
        ended(jobs, jobs.submit("double", {"number": number}, title=""))
    assert len(jobs.all()) <= 7
    assert jobs.find(waiting.id).is_open
    assert len(list((tmp_path / "jobs").glob("*.json"))) == len(jobs.all())


def test_full_disk_refuses_a_job_and_does_not_end_the_others(made, monkeypatch):
    jobs = made(wait=(until_cancelled, {}), double=(double, {"lane": "media"}))
    job = running(jobs, jobs.submit("wait", {}, title=""))

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("web.jobs.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        jobs.submit("double", {"number": 1}, title="")
    jobs.cancel(job.id)
    assert ended(jobs, job).state == "cancelled"
    monkeypatch.undo()
    assert ended(jobs, jobs.submit("double", {"number": 1}, title="")).state == "done"
