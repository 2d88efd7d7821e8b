"""Follow: an attempt is watched to its end, over lost connections, and seen to be gone."""

import threading
import time
from dataclasses import replace

import pytest

from cloud import follow
from cloud.aws import CloudError
from cloud.follow import Follower, close_attempt, describe_heartbeat, log_tail
from cloud.run_record import (
    DONE,
    INTERRUPTED,
    AttemptEnd,
    Heartbeat,
    utc_now,
)
from cloud.s3 import write_bytes
from cloud.start import start_attempt
from tests.launching import QUICK, Listener, make_ground, make_run
from tests.steady import wait_until

BEAT = Heartbeat(1, "t1", "training", epoch=1, epochs=3, loss=0.5, dollars_so_far=0.01)


class Watched:
    """A run with its first attempt under way, and a follower in a thread."""

    def __init__(self, aws, limits=QUICK):
        self.aws = aws
        self.run = make_run(aws, limits=limits)
        self.attempt = start_attempt(self.run, 1, make_ground(self.run), lambda *_: None)
        self.screen = Listener()
        self.result = self.error = None
        self.thread = threading.Thread(target=self._follow)

    def _follow(self) -> None:
        try:
            self.result = Follower(self.run, self.attempt, self.screen).until_end()
        except CloudError as error:
            self.error = error

    def wait(self, seconds: float = 60):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), self.screen.said
        return self.result

    def hears(self, part: str) -> bool:
        return wait_until(lambda: self.screen.has(part), what=lambda: part)

    def end(self, state: str = DONE) -> None:
        self.run.record.write_end(1, AttemptEnd(state, "", 0, utc_now(), 0.02))


@pytest.fixture
def watched(aws):
    watched = Watched(aws)
    watched.thread.start()
    yield watched
    watched.end()
    watched.thread.join(60)


def test_progress_is_shown_and_the_end_that_the_instance_wrote_is_returned(watched):
    assert watched.hears("starting · instance running")
    watched.run.record.write_heartbeat(BEAT)
    assert watched.hears("training · epoch 1/3 · loss 0.5 · $0.010 · c7i.2xlarge spot")
    watched.end()
    assert watched.wait().state == DONE


def test_heartbeat_of_another_attempt_is_not_taken_for_this_ones(watched):
    watched.run.record.write_heartbeat(replace(BEAT, attempt=7, stage="uploading"))
    time.sleep(0.5)
    assert not watched.screen.has("uploading")


def test_instance_that_ends_without_a_word_was_interrupted(watched):
    watched.aws.machines[0].vanish()
    end = watched.wait()
    assert end.state == INTERRUPTED
    assert "without a word" in end.reason
    assert watched.run.record.read_end(1) == end


def test_silent_instance_is_terminated_and_counts_as_interrupted(aws):
    watched = Watched(aws, replace(QUICK, silent_seconds=0.5))
    watched.thread.start()
    assert watched.wait().state == INTERRUPTED
    assert watched.screen.has("no heartbeat for")
    assert aws.wait_until_empty(10)


def test_lost_network_is_said_once_and_survived(watched, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    follow.forget_clients()
    follow.forget_connection()
    assert watched.hears("instance running")
    with watched.aws.laptop_cut_off():
        assert watched.hears("AWS can't be asked")
        time.sleep(1.0)
        assert watched.thread.is_alive()
    watched.run.record.write_heartbeat(BEAT)
    assert watched.hears("AWS answers again")
    assert watched.hears("epoch 1/3")
    assert sum("can't be asked" in line for line in watched.screen.said) == 1
    watched.end()
    assert watched.wait().state == DONE


def test_network_lost_beyond_the_end_of_the_instance_is_an_honest_end(aws, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    watched = Watched(aws)
    watched.attempt = replace(watched.attempt, deadline="2020-01-01T00:00:00+00:00")
    follow.forget_clients()
    follow.forget_connection()
    with aws.laptop_cut_off():
        watched.thread.start()
        watched.wait()
    assert "could not be asked since" in str(watched.error)


def test_s3_that_never_answers_does_not_keep_a_launcher_whose_instance_is_gone(aws):
    watched = Watched(aws, replace(QUICK, silent_seconds=0.5))
    aws.fail("GetObject", "denied", count=9999)
    watched.aws.machines[0].vanish()
    watched.thread.start()
    watched.wait()
    assert "the instance has ended" in str(watched.error)


def test_end_of_an_attempt_is_waited_for_only_so_long(aws):
    watched = Watched(aws)
    assert Follower(watched.run, watched.attempt, watched.screen).until_end(0.3) is None


def test_closed_attempt_leaves_no_instance_disk_or_schedule(aws):
    watched = Watched(aws)
    assert aws.schedules()
    assert close_attempt(watched.run, watched.attempt, watched.screen)
    assert aws.wait_until_empty(10)
    assert aws.schedules() == []
    assert watched.screen.has("is terminated")
    assert watched.screen.has("no instance and no disk")


def test_closing_ends_what_it_can_where_it_may_not_look(aws, monkeypatch):
    watched = Watched(aws)
    aws.fail("DescribeInstances", "denied", count=999)
    assert not close_attempt(watched.run, watched.attempt, watched.screen)
    assert aws.wait_until_empty(10)
    assert watched.screen.has("ec2:DescribeInstances was refused")
    assert watched.screen.has("./run_training.sh reap")


def test_instance_that_may_not_be_terminated_is_said_to_be_there(aws, monkeypatch):
    wait = follow.wait_until_gone
    monkeypatch.setattr(follow, "wait_for_disks", lambda region, run: ["vol-1"])
    monkeypatch.setattr(
        follow, "wait_until_gone", lambda region, name: wait(region, name, seconds=0.2)
    )
    watched = Watched(aws)
    aws.fail("TerminateInstances", "denied", count=999)
    assert not close_attempt(watched.run, watched.attempt, watched.screen)
    assert watched.screen.has("is running")
    assert watched.screen.has("not gone")
    assert watched.screen.has("vol-1 are still there")


def test_last_lines_of_the_log_are_those(aws):
    run = make_run(aws)
    assert log_tail(run.record, 1) == []
    write_bytes(run.record.log_url(1), "\n".join(map(str, range(50))).encode())
    assert log_tail(run.record, 1, 3) == ["47", "48", "49"]


def test_heartbeats_read_as_far_as_they_know():
    assert describe_heartbeat(Heartbeat(1, "", "booting")) == "booting"
    full = replace(BEAT, best="AUC 0.981", gpu_percent=87.4, cpu_percent=60.0)
    assert describe_heartbeat(full) == (
        "training · epoch 1/3 · loss 0.5 · AUC 0.981 · GPU 87 % · CPU 60 % · $0.010"
    )
