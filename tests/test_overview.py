"""Overview: runs begun here are known, and told as their records have them."""

import json
from dataclasses import replace

import pytest

from cloud.aws import CloudError
from cloud.known_runs import KnownRun, find_run, known_runs, remember_run
from cloud.overview import detail_lines, log_lines, read_state, table_lines
from cloud.run_record import DONE, AttemptEnd, Heartbeat, RecordError, RunPlan, RunRecord
from cloud.s3 import write_bytes
from tests.launching import ATTEMPT, NAME, QUICK, make_run

LAUNCHED = replace(ATTEMPT, instance_id="i-00000000000000001", launched="2026-11-22T06:00:00+00:00")
END = AttemptEnd(DONE, "", 0, "2026-11-22T07:00:00+00:00", 0.25)
BEAT = Heartbeat(1, "2026-11-22T06:30:00+00:00", "training", epoch=2, epochs=8, best="AUC 0.9")


@pytest.fixture
def record(s3) -> RunRecord:
    record = RunRecord(s3.new_bucket(), NAME)
    record.write_plan(
        RunPlan(
            NAME,
            record.url.split("/")[2],
            "us-east-1",
            "train.py",
            ["--fps", "2"],
            "",
            "2026-11-22T05:00:00+00:00",
            "me",
            limits=QUICK,
        )  # fmt: skip
    )
    return record


def known(record: RunRecord) -> KnownRun:
    return KnownRun(NAME, record.url.split("/")[2], "us-east-1", "2026-11-22T05:00:00+00:00")


# --- known runs


def test_runs_begun_here_are_found_without_a_bucket_the_newest_first(tmp_path):
    assert known_runs(tmp_path) == []
    older = KnownRun("2026-11-21_06-10-00-train-aaaa", "bucket", "eu-west-1", "then")
    newer = replace(older, run=NAME, region="us-east-1")
    remember_run(tmp_path, older)
    remember_run(tmp_path, newer)
    assert known_runs(tmp_path) == [newer, older]
    assert find_run(tmp_path, NAME, None, None) == newer
    assert find_run(tmp_path, NAME, "moved", None).bucket == "moved"


def test_run_begun_elsewhere_needs_its_bucket(tmp_path):
    with pytest.raises(RecordError, match="pass --bucket"):
        find_run(tmp_path, NAME, None, None)
    assert find_run(tmp_path, NAME, "bucket", "eu-west-1").bucket == "bucket"
    with pytest.raises(RecordError, match="not the name of a run"):
        find_run(tmp_path, "../../etc/passwd", "bucket", None)


def test_damaged_file_of_a_run_is_said(tmp_path):
    folder = tmp_path / "runs" / "aws"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.json").write_text("{")
    (folder / "mine.json").write_text(json.dumps({}))
    with pytest.raises(RecordError, match="is damaged"):
        known_runs(tmp_path)


# --- what is told


def test_table_follows_a_run_from_its_start_to_its_end(record):
    def row() -> str:
        head, line = table_lines([known(record)])
        assert head.split()[:3] == ["run", "state", "epoch"]
        return " ".join(line.split())

    assert row() == f"{NAME} not begun 0.000"
    etag = record.write_attempt(LAUNCHED, None)
    assert "starting" in row()
    record.write_heartbeat(BEAT)
    assert "training 2/8 AUC 0.9" in row()
    assert "i-00000000000000001 c7i.2xlarge spot" in row()
    record.write_attempt(replace(LAUNCHED, zone="b"), etag)
    record.write_end(1, END)
    assert row() == f"{NAME} done 2/8 AUC 0.9 0.250"


def test_heartbeat_of_an_attempt_before_is_not_the_state_of_this_one(record):
    record.write_heartbeat(BEAT)
    record.write_attempt(replace(LAUNCHED, number=2), None)
    assert read_state(record).state == "starting"


def test_run_whose_bucket_can_not_be_read_does_not_hide_the_others(record):
    gone = KnownRun("2026-11-20_06-10-00-train-gone", "no-such-bucket-here", "us-east-1", "")
    lines = table_lines([gone, known(record)])
    assert "unknown: " in lines[1]
    assert "not begun" in lines[2]


def test_details_tell_each_attempt_and_what_ec2_shows(aws):
    run = make_run(aws)
    run.record.write_attempt(LAUNCHED, None)
    run.record.write_heartbeat(replace(BEAT, line="epoch 2 of 8"))
    text = "\n".join(detail_lines(read_state(run.record)))
    for part in (NAME, "train.py", "training · epoch 2/8", "epoch 2 of 8", "not ended", "is gone"):
        assert part in text
    aws.fail("DescribeInstances", "denied", count=9)
    assert "EC2 can't be asked" in "\n".join(detail_lines(read_state(run.record)))


# --- logs


def test_log_of_all_attempts_is_told_in_order(record):
    for number in (1, 2):
        record.write_attempt(replace(LAUNCHED, number=number), None)
        write_bytes(record.log_url(number), f"a{number}\nb{number}\n".encode())
    assert list(log_lines(record, follow=False)) == ["a1", "b1", "a2", "b2"]


def test_followed_log_shows_whole_lines_once_until_the_run_ends(record):
    record.write_attempt(LAUNCHED, None)
    contents = [b"one\nhal", b"one\nhalf\n", b"one\nhalf\n", b"one\nhalf\nlast without end"]
    write_bytes(record.log_url(1), contents.pop(0))

    def wait(seconds):
        write_bytes(record.log_url(1), contents.pop(0))
        if not contents:
            record.write_end(1, END)

    lines = list(log_lines(record, follow=True, wait=wait))
    assert lines == ["one", "half", "last without end"]


def test_run_that_printed_nothing_says_so(record):
    with pytest.raises(CloudError, match="has printed nothing yet"):
        list(log_lines(record, follow=False))
