"""Reap: what should be gone is ended, what goes on is left, and the proof says what it saw."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloud import reap as module
from cloud.reap import Rule, look, proof_lines, reap
from cloud.run_record import DONE, AttemptEnd, utc_now
from cloud.start import start_attempt
from tests.aws_world import REGION
from tests.launching import make_ground, make_run


@pytest.fixture
def run(aws):
    return make_run(aws)


def start(run, **changes):
    attempt = start_attempt(run, 1, make_ground(run), lambda *_: None)
    return replace(attempt, **changes)


def due(looked) -> list[str]:
    return [found.why for one in looked for found in one.found if found.why]


def test_run_that_goes_on_is_seen_and_left(aws, run):
    attempt = start(run)
    looked = look([REGION], [run.plan.bucket], Rule(bucket_of={run.plan.run: run.plan.bucket}))
    assert due(looked) == []
    assert reap(looked) == []
    lines, clean = proof_lines(looked)
    assert not clean
    assert attempt.instance_id in "\n".join(lines)
    assert aws.left() == [attempt.instance_id]


def test_instance_past_its_deadline_is_ended_with_its_schedule(aws, run):
    attempt = start(run)
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    aws.client("ec2").create_tags(
        Resources=[attempt.instance_id], Tags=[{"Key": "Deadline", "Value": past}]
    )
    looked = look([REGION], [], Rule())
    (ended,) = reap(looked)
    assert (ended.why, ended.ended) == ("past its deadline", "terminated")
    assert aws.wait_until_empty(10)
    (schedule,) = reap(look([REGION], [], Rule()))
    assert (schedule.kind, schedule.ended) == ("schedule", "deleted")
    assert aws.schedules() == []


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule(everything=True), "all are asked for"),
        (Rule(older_than_hours=-1.0), "older than -1 h"),
    ],
)
def test_age_and_all_reach_instances_of_runs_under_way(aws, run, rule, why):
    start(run)
    assert [found.why for found in reap(look([REGION], [], rule)) if found.kind == "instance"] == [
        why
    ]
    assert aws.wait_until_empty(10)


def test_instance_whose_attempt_has_ended_is_ended(aws, run):
    start(run)
    run.record.write_end(1, AttemptEnd(DONE, "", 0, utc_now(), 0.0))
    rule = Rule(bucket_of={run.plan.run: run.plan.bucket})
    assert due(look([REGION], [], rule)) == ["its attempt has ended (done)"]
    assert due(look([REGION], [], Rule())) == []


def test_nothing_of_others_is_seen(aws, run):
    ec2 = aws.client("ec2")
    ec2.run_instances(
        ImageId="ami-a1202300",
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        UserData="#!/bin/bash\nsleep 9",
    )
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)
    lines, clean = proof_lines(look([REGION], [run.plan.bucket], Rule(everything=True)))
    assert clean
    assert lines[-1].startswith("nothing of ours is billed")


def test_disk_without_an_instance_is_deleted(aws, run):
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "Project", "Value": module.PROJECT}]}]
    aws.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=tags)
    (ended,) = reap(look([REGION], [], Rule()))
    assert (ended.kind, ended.ended) == ("volume", "deleted")
    assert proof_lines(look([REGION], [], Rule()))[1]


def test_unfinished_uploads_are_ended_when_they_are_old(aws, run, monkeypatch):
    s3 = aws.client("s3")
    bucket = run.plan.bucket
    s3.create_multipart_upload(Bucket=bucket, Key="store/x")
    s3.create_multipart_upload(Bucket=bucket, Key="elsewhere/x")
    with monkeypatch.context() as patch:
        patch.setattr(module, "OLD_UPLOAD_HOURS", 1e9)  # moto begins all in 2010
        looked = look([], [bucket], Rule())
        assert [len(one.found) for one in looked] == [1]
        assert reap(looked) == []
    (ended,) = reap(look([], [bucket], Rule()))
    assert ended.ended == "aborted"
    assert proof_lines(look([], [bucket], Rule()))[1]
    assert len(s3.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1


def test_what_may_not_be_looked_at_is_no_proof(aws, run):
    aws.fail("DescribeVolumes", "denied", count=9)
    lines, clean = proof_lines(look([REGION], [run.plan.bucket], Rule()))
    assert not clean
    assert "ec2:DescribeVolumes was refused" in "\n".join(lines)
    assert lines[-1].startswith("not proved")


def test_what_may_not_be_ended_is_said_and_the_rest_is_ended(aws, run):
    start(run)
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "Project", "Value": module.PROJECT}]}]
    aws.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=tags)
    aws.fail("TerminateInstances", "denied", count=9)
    ended = {found.kind: found.ended for found in reap(look([REGION], [], Rule(everything=True)))}
    assert "ec2:TerminateInstances was refused" in ended["instance"]
    assert ended["volume"] == "deleted"
