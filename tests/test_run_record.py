"""Run record: what one side writes the other reads; of two writers one wins; user data fits."""

import subprocess
from dataclasses import asdict, replace

import pytest

from cloud.run_record import (
    DONE,
    FAILED,
    LIMITS_VARIABLE,
    AttemptEnd,
    Heartbeat,
    Latest,
    Limits,
    RecordError,
    RunPlan,
    RunRecord,
    check_run_name,
    dollars_until,
    money_spent,
    new_run_name,
    parse,
)
from cloud.s3 import S3ChangedError
from cloud.user_data import BOOTSTRAP, MOST_BYTES, user_data
from tests.launching import ATTEMPT, NAME

PLAN = RunPlan(
    NAME, "bucket", "eu-west-1", "train.py", ["--epochs", "3"], "ab" * 32,
    "2026-11-22T06:10:00+00:00", "me", limits=Limits(max_cost=2.0), choices=[{"a": 1}],
)  # fmt: skip
END = AttemptEnd(DONE, "", 0, "2026-11-22T07:00:00+00:00", 0.25)


@pytest.fixture
def record(s3) -> RunRecord:
    return RunRecord(s3.new_bucket(), NAME)


def test_records_come_back_as_they_were_written(record):
    record.write_plan(PLAN)
    heartbeat = Heartbeat(1, "2026-11-22T06:20:00+00:00", "training", epoch=1, loss=0.5)
    record.write_heartbeat(heartbeat)
    latest = Latest({"a": {"sha256": "00", "size_bytes": 1}}, 1, "2026-11-22T06:20:00+00:00")
    record.write_latest(latest)
    record.write_attempt(ATTEMPT, None)
    record.write_end(1, END)
    assert record.read_plan() == PLAN
    assert record.read_heartbeat() == heartbeat
    assert record.read_latest() == latest
    assert record.read_attempts() == [ATTEMPT]
    assert record.read_end(1) == END


def test_what_is_not_there_yet_is_none(record):
    assert record.read_heartbeat() is None
    assert record.read_latest() is None
    assert record.read_attempts() == []
    assert record.read_attempt(1) == (None, None)
    assert record.read_end(1) is None
    assert record.stop_reason(1) is None
    with pytest.raises(RecordError, match="is not a run: .*--bucket"):
        record.read_plan()


def test_attempts_are_in_the_order_of_their_numbers(record):
    for number in (10, 2, 1):
        record.write_attempt(replace(ATTEMPT, number=number), None)
        record.write_end(number, END)
    assert record.attempt_numbers() == [1, 2, 10]


def test_of_two_that_claim_an_attempt_one_wins(record):
    record.write_attempt(ATTEMPT, None)
    with pytest.raises(S3ChangedError):
        record.write_attempt(replace(ATTEMPT, launcher="another"), None)
    assert record.read_attempt(1)[0].launcher == "somebody"


def test_attempt_is_changed_only_by_who_read_its_last_state(record):
    etag = record.write_attempt(ATTEMPT, None)
    newer = record.write_attempt(replace(ATTEMPT, instance_id="i-1"), etag)
    with pytest.raises(S3ChangedError):
        record.write_attempt(replace(ATTEMPT, instance_id="i-2"), etag)
    record.write_attempt(replace(ATTEMPT, instance_id="i-3"), newer)
    assert record.read_attempt(1)[0].instance_id == "i-3"


def test_own_claim_whose_answer_was_lost_is_known_again(s3, record):
    etag = record.write_attempt(ATTEMPT, None)
    assert record.write_attempt(ATTEMPT, None) == etag


def test_first_end_counts(record):
    assert record.write_end(1, END)
    assert not record.write_end(1, replace(END, state=FAILED))
    assert record.read_end(1).state == DONE


def test_stop_is_for_the_attempts_until_then(record):
    record.ask_to_stop(2, "asked by me")
    assert record.stop_reason(1) == record.stop_reason(2) == "asked by me"
    assert record.stop_reason(3) is None


def test_records_of_a_newer_version_are_read_and_damaged_ones_refused():
    assert parse(AttemptEnd, {**asdict(END), "colour": "blue"}, "s3://b/x") == END
    with pytest.raises(RecordError, match="s3://b/x is not the record of a AttemptEnd"):
        parse(AttemptEnd, {"state": DONE}, "s3://b/x")


def test_names_of_runs_sort_by_time_and_differ():
    first, second = new_run_name("cost_optimized_train.py"), new_run_name("my script.py")
    assert check_run_name(first) == first
    assert check_run_name(second).endswith(second[-5:])
    assert new_run_name("train.py") != new_run_name("train.py")
    for bad in ("", "../x", "2026-11-22_06-10-00-train", "latest"):
        with pytest.raises(RecordError, match="status lists them"):
            check_run_name(bad)


def test_limits_come_from_the_environment_and_what_is_given_wins(monkeypatch):
    monkeypatch.setenv(LIMITS_VARIABLE, '{"poll_seconds": 0.2, "max_hours": 9}')
    limits = Limits.from_environment({"max_hours": 5.0}, max_hours=2, max_cost=None)
    assert (limits.poll_seconds, limits.max_hours, limits.max_cost) == (0.2, 2, None)
    assert Limits.from_environment({"max_hours": 5.0}).max_hours == 9
    monkeypatch.delenv(LIMITS_VARIABLE)
    assert Limits.from_environment({"max_hours": 5.0}).max_hours == 5


@pytest.mark.parametrize("text", ["[", "[1]", '{"no_such": 1}', '{"max_hours": "long"}'])
def test_limits_that_can_not_be_read_are_refused_with_their_names(monkeypatch, text):
    monkeypatch.setenv(LIMITS_VARIABLE, text)
    with pytest.raises(RecordError, match="write a JSON object of numbers by any of max_hours"):
        Limits.from_environment()


def test_money_of_attempts_is_what_they_said_or_the_time_until_their_deadline():
    first = replace(ATTEMPT, launched="2026-11-22T06:00:00+00:00")
    second = replace(first, number=2)
    never = replace(ATTEMPT, number=3)
    now = "2026-11-22T07:00:00+00:00"
    assert money_spent([first, second, never], {1: END}, now) == pytest.approx(0.25 + 0.5)
    assert dollars_until(first, "2026-11-30T00:00:00+00:00") == pytest.approx(1.0)


def test_user_data_is_a_script_with_its_variables_and_without_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    text = user_data(PLAN, ATTEMPT)
    assert text == user_data(PLAN, ATTEMPT)
    assert len(text.encode()) < MOST_BYTES
    assert text.startswith("#!/")
    assert text.endswith(BOOTSTRAP.read_text())
    assert "very-secret" not in text
    header = text.removesuffix(BOOTSTRAP.read_text())
    done = subprocess.run(
        ["bash", "-c", header + "env"], capture_output=True, text=True, check=True
    )
    for line in (
        f"ADGAME_RUN={NAME}",
        "ADGAME_BUCKET=bucket",
        "ADGAME_ATTEMPT=1",
        f"ADGAME_CODE_SHA256={'ab' * 32}",
        "ADGAME_MAX_MINUTES=60",
        "ADGAME_SET_UP_MINUTES=40",
        "ADGAME_FINAL_UPLOAD_SECONDS=90",
        "AWS_DEFAULT_REGION=eu-west-1",
    ):
        assert line in done.stdout.splitlines()
