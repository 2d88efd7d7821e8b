"""Instances: started once per attempt, closed to everybody, gone when they should be."""

import base64
from dataclasses import replace

import pytest

from cloud import instances
from cloud.aws import AwsError
from cloud.images import find_image
from cloud.instances import (
    CAPACITY,
    CapacityError,
    Instance,
    Place,
    describe_instance,
    find_instances,
    is_gone,
    start_instance,
    terminate,
    wait_for_disks,
    wait_until_gone,
)
from cloud.permissions import instance_role
from cloud.run_record import ON_DEMAND
from cloud.user_data import user_data
from tests.aws_world import REGION
from tests.launching import ATTEMPT, make_ground, make_run


@pytest.fixture
def run(aws):
    return make_run(aws)


@pytest.fixture
def place(run):
    ground = make_ground(run)
    subnet = ground.subnets["us-east-1a"]
    return Place(REGION, subnet, ground.group, find_image(REGION, gpu=False))


def test_instance_is_closed_encrypted_tagged_and_gone_when_it_shuts_down(aws, run, place):
    started = start_instance(run.plan, ATTEMPT, place)
    ec2 = aws.client("ec2")
    (group,) = ec2.describe_instances(InstanceIds=[started.instance_id])["Reservations"]
    (found,) = group["Instances"]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert found["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert found["IamInstanceProfile"]["Arn"].endswith(f"/{instance_role(run.plan.bucket)}")
    assert found["InstanceLifecycle"] == "spot"
    assert "KeyName" not in found
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["Project"] == "ad-game-classifier"
    assert (tags["Run"], tags["Attempt"]) == (run.plan.run, "1")
    assert (tags["Owner"], tags["Deadline"]) == ("me", ATTEMPT.deadline)
    about = {"InstanceId": started.instance_id}
    behavior = ec2.describe_instance_attribute(
        **about, Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behavior["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    data = ec2.describe_instance_attribute(**about, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(data).decode() == user_data(run.plan, ATTEMPT)
    (volume,) = ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [started.instance_id]}]
    )["Volumes"]
    assert volume["Encrypted"]
    assert volume["Size"] >= run.plan.disk_gb
    assert volume["VolumeType"] == "gp3"
    ebs = aws.called("RunInstances")[0].parameters
    assert ebs["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"


def test_on_demand_instance_is_no_spot_instance(aws, run, place):
    attempt = replace(ATTEMPT, market=ON_DEMAND)
    assert start_instance(run.plan, attempt, place).market == "on-demand"


def test_repeated_start_of_an_attempt_gives_the_same_instance(aws, run, place):
    first = start_instance(run.plan, ATTEMPT, place)
    assert start_instance(run.plan, ATTEMPT, place).instance_id == first.instance_id
    assert len(aws.machines) == 1


def test_repeated_start_in_other_words_finds_the_instance_by_its_tags(aws, run, place):
    first = start_instance(run.plan, ATTEMPT, place)
    elsewhere = replace(place, image=replace(place.image, root_gb=99))
    assert start_instance(run.plan, ATTEMPT, elsewhere).instance_id == first.instance_id
    assert len(aws.machines) == 1


def test_lost_answer_does_not_start_a_second_one(aws, run, place, monkeypatch):
    monkeypatch.setattr(instances.time, "sleep", lambda seconds: None)
    aws.fail("RunInstances", "lost")
    start_instance(run.plan, ATTEMPT, place)
    assert len(aws.called("RunInstances")) == 2
    assert len(aws.machines) == 1


def test_want_of_capacity_is_told_from_other_refusals_at_the_first_call(aws, run, place):
    for code in CAPACITY:
        aws.faults.clear()
        aws.calls.clear()
        aws.fail("RunInstances", code, count=99)
        with pytest.raises(CapacityError):
            start_instance(run.plan, ATTEMPT, place)
        assert len(aws.called("RunInstances")) == 1


def test_permission_and_parameters_stop_at_the_first_call(aws, run, place):
    for code in ("denied", "InvalidParameterValue", "InvalidAMIID.NotFound"):
        aws.faults.clear()
        aws.calls.clear()
        aws.fail("RunInstances", code, count=99)
        with pytest.raises(AwsError, match="ec2:RunInstances") as error:
            start_instance(run.plan, ATTEMPT, place)
        assert not isinstance(error.value, CapacityError)
        assert len(aws.called("RunInstances")) == 1


def test_profile_made_a_moment_ago_is_waited_for(aws, run, place, monkeypatch):
    monkeypatch.setattr("cloud.aws.time.sleep", lambda seconds: None)
    said = "Value (ad-game-classifier-instance) for parameter iamInstanceProfile.name is invalid"
    aws.fail("RunInstances", "InvalidParameterValue", count=2, message=said)
    start_instance(run.plan, ATTEMPT, place)
    assert len(aws.called("RunInstances")) == 3


def test_busy_service_is_asked_a_few_times_and_then_said(aws, run, place, monkeypatch):
    monkeypatch.setattr(instances.time, "sleep", lambda seconds: None)
    aws.fail("RunInstances", "busy", count=99)
    with pytest.raises(AwsError, match="busy|ServiceUnavailable|503"):
        start_instance(run.plan, ATTEMPT, place)
    assert 1 < len(aws.called("RunInstances")) <= instances.CALLS


def test_ours_are_found_by_run_and_attempt_and_others_are_not(aws, run, place):
    started = start_instance(run.plan, ATTEMPT, place)
    ec2 = aws.client("ec2")
    other = {"InstanceType": "t3.micro", "UserData": "#!/bin/bash\nsleep 60"}
    ec2.run_instances(ImageId=place.image.image_id, MinCount=1, MaxCount=1, **other)
    assert [i.instance_id for i in find_instances(REGION)] == [started.instance_id]
    assert find_instances(REGION, run=run.plan.run, attempt=1)
    assert not find_instances(REGION, run=run.plan.run, attempt=2)
    assert not find_instances(REGION, run="another")


def test_terminated_instance_is_gone_with_its_disk(aws, run, place):
    started = start_instance(run.plan, ATTEMPT, place)
    assert wait_for_disks(REGION, run.plan.run, 0)
    assert not is_gone(describe_instance(REGION, started.instance_id))
    terminate(REGION, started.instance_id)
    terminate(REGION, started.instance_id)
    assert wait_until_gone(REGION, started.instance_id) == "terminated"
    assert is_gone(describe_instance(REGION, started.instance_id))
    assert find_instances(REGION) == []
    assert wait_for_disks(REGION, run.plan.run, 0) == []


def test_unknown_instance_is_none_and_terminating_it_is_no_mistake(aws):
    assert describe_instance(REGION, "i-00000000000000000") is None
    terminate(REGION, "i-00000000000000000")


def test_time_of_the_end_is_read_from_what_ec2_says():
    reason = "User initiated (2026-11-22 06:14:23 GMT)"
    ended = Instance("i", "terminated", "t", "spot", "z", "", "r", {}, reason).ended
    assert ended == "2026-11-22T06:14:23+00:00"
    assert Instance("i", "running", "t", "spot", "z", "", "r", {}).ended is None
