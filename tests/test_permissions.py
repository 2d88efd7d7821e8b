"""Permissions: the policies allow what a run does and nothing else, by moto's IAM and as read."""

import ast
import contextlib
import json
import re

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.iam.access_control import IAMRequestBase

from cloud.aws import call, caller, pages
from cloud.network import ensure_group, find_network
from cloud.permissions import (
    NAMES,
    PROJECT,
    SCHEDULER_ROLE,
    instance_role,
    policies,
)
from cloud.prices import instance_types
from cloud.roles import ensure_roles
from cloud.s3 import S3Error, list_objects, read_bytes, write_bytes
from cloud.schedule import schedule_name
from tests.aws_world import CPU_IMAGE, REGION
from tests.own_world import forget, own_world
from tests.test_floor_plan import ROOT

ACCOUNT = "123456789012"  # moto's
BUCKET = "videos"
DOCUMENTS = policies(BUCKET, REGION, ACCOUNT)
LARGEST = {"person": 6144, "first_time": 6144, "instance": 10_240, "scheduler": 10_240}
# What AWS asks for besides the action that a call is named after.
IMPLIED = {"iam:PassRole", "ec2:CreateTags", "iam:TagRole", "iam:CreateServiceLinkedRole"}
OF_OBJECTS = {  # by cloud/s3.py and the transfers of boto3
    "s3:ListBucket",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
}
NEED_NONE = {"sts:GetCallerIdentity"}
REFUSED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
ACTIONS = {  # where the permission is not called as the request is
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
SERVICES = {"service-quotas": "servicequotas"}


def statements(name):
    return DOCUMENTS[name]["Statement"]


def as_list(value):
    return value if isinstance(value, list) else [value]


def actions(*names):
    return {a for name in names for s in statements(name) for a in as_list(s["Action"])}


def only(name, action, resource_part=""):
    """The one statement that allows this action on such a resource."""
    (found,) = [
        s
        for s in statements(name)
        if action in as_list(s["Action"])
        and any(resource_part in resource for resource in as_list(s["Resource"]))
    ]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_policy_is_whole_and_small_enough_for_iam(name):
    document = DOCUMENTS[name]
    text = json.dumps(document, separators=(",", ":"))
    assert "${" not in text
    assert document["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in document["Statement"]} == {"Allow"}
    assert len(text) <= LARGEST.get(name, 2048)
    sids = [s["Sid"] for s in document["Statement"] if "Sid" in s]
    assert len(sids) == len(set(sids))
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)


@pytest.mark.parametrize("name", ["person", "first_time", "instance", "scheduler"])
def test_no_policy_has_a_whole_service(name):
    for statement in statements(name):
        assert not any("*" in action for action in as_list(statement["Action"]))
        if statement["Resource"] == "*":
            assert statement["Sid"] == "Look"
            assert all(re.search(r":(Describe|Get|List)", action) for action in statement["Action"])


def test_policies_are_those_of_another_partition_too():
    text = json.dumps(policies("b-1", "us-gov-west-1", ACCOUNT, "aws-us-gov"))
    assert "arn:aws-us-gov:s3:::b-1/data/*" in text
    assert "arn:aws:" not in text


def test_person_may_do_what_the_launcher_calls_and_nothing_else():
    called = set(launcher_calls())
    assert {"ec2:RunInstances", "iam:CreateRole", "pricing:GetProducts"} <= called
    allowed = actions("person", "first_time")
    assert allowed - IMPLIED == (called | OF_OBJECTS) - NEED_NONE


def launcher_calls():
    """Actions of IAM, by the services and operations that the modules of cloud/ name."""
    for path in (ROOT / "cloud").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "")
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if name in ("call", "pages", "explained") and len(words) > 1:
                service, operation = words[:2]
            elif name in ("_ask", "_make") and path.stem == "roles":
                service, operation = "iam", words[0]
            else:
                continue
            if operation != "connect":
                yield action_of(service, operation)


def action_of(service, operation):
    camel = operation
    if "_" in operation:
        camel = "".join(part.capitalize() for part in operation.split("_"))
    action = f"{SERVICES.get(service, service)}:{camel}"
    return ACTIONS.get(action, action)


def test_instances_are_started_only_as_ours_with_imdsv2_and_our_role():
    started = only("person", "ec2:RunInstances", ":instance/*")["Condition"]
    assert started["StringEquals"] == {
        "aws:RequestTag/Project": PROJECT,
        "ec2:MetadataHttpTokens": "required",
    }
    profile = f"arn:aws:iam::{ACCOUNT}:instance-profile/{instance_role(BUCKET)}"
    assert started["ArnEquals"] == {"ec2:InstanceProfile": profile}
    patterns = started["StringLike"]["ec2:InstanceType"]
    as_regex = [re.escape(p).replace(r"\?", ".") for p in patterns]
    for name in instance_types():
        assert any(re.fullmatch(pattern, name) for pattern in as_regex), name
    for name in ("p5.48xlarge", "g5.12xlarge", "c7i.metal-24xl", "c7i.48xlarge"):
        assert not any(re.fullmatch(pattern, name) for pattern in as_regex), name


def test_disks_are_encrypted_and_images_amazons_and_the_group_is_ours():
    disk = only("person", "ec2:RunInstances", ":volume/*")["Condition"]
    assert disk["Bool"] == {"ec2:Encrypted": "true"}
    image = only("person", "ec2:RunInstances", ":image/*")["Condition"]
    assert image == {"StringEquals": {"ec2:Owner": "amazon"}}
    group = only("person", "ec2:RunInstances", ":security-group/*")["Condition"]
    assert group == {"StringEquals": {"aws:ResourceTag/Project": PROJECT}}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("person", "ec2:TerminateInstances"),
        ("person", "ec2:DeleteVolume"),
        ("scheduler", "ec2:TerminateInstances"),
    ],
)
def test_only_what_is_tagged_as_ours_is_ended(name, action):
    condition = only(name, action)["Condition"]
    assert condition == {"StringEquals": {"aws:ResourceTag/Project": PROJECT}}
    assert name == "person" or actions(name) == {action}


def test_only_schedules_of_ours_are_made_and_deleted():
    (resource,) = as_list(only("person", "scheduler:CreateSchedule")["Resource"])
    group, _, pattern = resource.partition(":schedule/")[2].partition("/")
    name = schedule_name("2026-11-22_06-10-00-cost_optimized_train-x7k2", 12)
    assert group == "default"
    assert name.startswith(pattern.removesuffix("*"))
    assert pattern.startswith(PROJECT)


def test_tags_are_given_only_to_what_is_being_made():
    condition = only("person", "ec2:CreateTags")["Condition"]["StringEquals"]
    assert condition == {"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup"]}


def test_roles_are_passed_only_to_the_service_that_each_is_for():
    passed = {}
    for statement in statements("person"):
        if statement["Action"] == "iam:PassRole":
            service = statement["Condition"]["StringEquals"]["iam:PassedToService"]
            passed[statement["Resource"].rpartition("/")[2]] = service
    assert passed == {
        instance_role(BUCKET): "ec2.amazonaws.com",
        SCHEDULER_ROLE: "scheduler.amazonaws.com",
    }
    assert not any("iam:PassRole" in actions(name) for name in NAMES if name != "person")


def test_roles_are_made_by_name_only_and_taken_on_by_their_service_only():
    for statement in statements("first_time"):
        for resource in as_list(statement["Resource"]):
            assert resource.endswith(
                (instance_role(BUCKET), SCHEDULER_ROLE, "spot.amazonaws.com/*")
            )
    (instance,) = statements("instance_trust")
    assert instance["Principal"] == {"Service": "ec2.amazonaws.com"}
    (scheduler,) = statements("scheduler_trust")
    assert scheduler["Principal"] == {"Service": "scheduler.amazonaws.com"}
    # Else anybody's scheduler could be talked into using it.
    assert scheduler["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def test_instance_sees_its_bucket_by_prefix_and_nothing_but_s3():
    assert actions("instance") <= {
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
    }
    listing = only("instance", "s3:ListBucket")["Condition"]
    assert listing == {"StringLike": {"s3:prefix": ["data/*", "store/*", "runs/*"]}}
    written = only("instance", "s3:PutObject")["Resource"]
    assert not any("/data/" in resource for resource in written)


# With moto deciding. Of S3 it looks at the resource too; of the rest at the action alone, and asks
# for all resources, so what the others are limited to is tested above, by reading.


def of_moto(document):
    """The same policy with all resources but those of S3 left open."""
    opened = []
    for statement in document["Statement"]:
        is_s3 = all(action.startswith("s3:") for action in as_list(statement["Action"]))
        opened.append(statement if is_s3 else {**statement, "Resource": "*"})
    return json.dumps({**document, "Statement": opened})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with own_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def bucket(world):
    return world.new_bucket(**{"data/ads/a.mp4": b"video", "private/letter.txt": b"private"})


@contextlib.contextmanager
def acting(world, monkeypatch, keys):
    """Of boto3 in this process: these are the keys, and IAM decides."""
    # moto computes another signature of the scheduler's requests that have a query.
    monkeypatch.setattr(IAMRequestBase, "check_signature", lambda self: None)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    forget()
    with world.policies_enforced():
        yield


def person_keys(world, bucket, *names):
    """Of a new user with these policies of ours."""
    iam = world.client("iam")
    documents = policies(bucket, REGION, ACCOUNT)
    iam.create_user(UserName=bucket)
    for name in names:
        document = of_moto(documents[name])
        iam.put_user_policy(UserName=bucket, PolicyName=name, PolicyDocument=document)
    key = iam.create_access_key(UserName=bucket)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def instance_keys(world, bucket):
    """Of the role that instances have, with the policy of ours."""
    iam = world.client("iam")
    documents, role = policies(bucket, REGION, ACCOUNT), instance_role(bucket)
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        trust = json.dumps(documents["instance_trust"])
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
    document = of_moto(documents["instance"])
    iam.put_role_policy(RoleName=role, PolicyName="of-run", PolicyDocument=document)
    arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
    keys = world.client("sts").assume_role(RoleArn=arn, RoleSessionName="i-0")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }


def aws(service):
    """A client with the keys of now: boto3's own session would keep those it saw first."""
    return boto3.Session().client(service)


def refused(action, *arguments, **named):
    """Whether IAM refuses it; anything else that goes wrong is raised."""
    try:
        action(*arguments, **named)
    except ClientError as error:
        if error.response["Error"]["Code"] not in REFUSED and "is not authorized" not in str(error):
            raise
        return True
    except S3Error as error:
        if "access denied" not in str(error):
            raise
        return True
    return False


def test_a_run_works_with_the_person_s_policies(world, bucket, monkeypatch):
    keys = person_keys(world, bucket, "person", "first_time")
    with acting(world, monkeypatch, keys):
        assert caller(REGION) == (ACCOUNT, "aws", bucket)
        assert call("s3", "get_bucket_location", Bucket=bucket)["LocationConstraint"] is None
        assert [item.url for item in list_objects(f"s3://{bucket}/data")]
        write_bytes(f"s3://{bucket}/runs/r/plan.json", b"{}")
        write_bytes(f"s3://{bucket}/data/games/b.mp4", b"video")
        assert read_bytes(f"s3://{bucket}/runs/r/plan.json")[0] == b"{}"
        assert len(ensure_roles(bucket, REGION, ACCOUNT, "aws")) == 5
        assert ensure_roles(bucket, REGION, ACCOUNT, "aws") == []
        vpc, subnets = find_network(REGION)
        group = ensure_group(REGION, vpc)
        tags = [{"Key": "Project", "Value": PROJECT}]
        answer = aws("ec2").run_instances(
            ImageId=CPU_IMAGE,
            InstanceType="c7i.2xlarge",
            MinCount=1,
            MaxCount=1,
            ClientToken=bucket,
            IamInstanceProfile={"Name": instance_role(bucket)},
            SubnetId=next(iter(subnets.values())),
            SecurityGroupIds=[group],
            MetadataOptions={"HttpTokens": "required"},
            InstanceMarketOptions={"MarketType": "spot"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
            InstanceInitiatedShutdownBehavior="terminate",
            UserData="#!/bin/bash\nsleep 60",
        )
        number = answer["Instances"][0]["InstanceId"]
        schedule = {
            "ScheduleExpression": "at(2035-01-01T00:00:00)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {
                "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{SCHEDULER_ROLE}",
                "Input": json.dumps({"InstanceIds": [number]}),
            },
        }
        name = f"{PROJECT}-1"
        call("scheduler", "create_schedule", REGION, Name=name, **schedule)
        call("scheduler", "get_schedule", REGION, Name=name)
        assert pages("scheduler", "list_schedules", REGION, "Schedules", NamePrefix=PROJECT)
        call("ec2", "terminate_instances", REGION, InstanceIds=[number])
        call("scheduler", "delete_schedule", REGION, Name=name)
    assert world.wait_until_empty(20)


def test_person_s_other_calls_are_refused(world, bucket, monkeypatch):
    other = world.new_bucket(**{"data/a.mp4": b"video"})
    keys = person_keys(world, bucket, "person")
    with acting(world, monkeypatch, keys):
        ec2, iam = aws("ec2"), aws("iam")
        assert refused(read_bytes, f"s3://{bucket}/private/letter.txt")
        assert refused(write_bytes, f"s3://{bucket}/store/index.json", b"{}")
        assert refused(read_bytes, f"s3://{other}/data/a.mp4")
        assert refused(aws("s3").delete_object, Bucket=bucket, Key="data/ads/a.mp4")
        assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16")
        assert refused(ec2.create_key_pair, KeyName="way-in")
        assert refused(iam.create_user, UserName="another")
        assert refused(
            iam.create_role, RoleName=instance_role(bucket), AssumeRolePolicyDocument="{}"
        )


def test_instance_works_with_its_bucket(world, bucket, monkeypatch):
    world.put(bucket, "store/index.json", b"{}")
    with acting(world, monkeypatch, instance_keys(world, bucket)):
        for prefix in ("data", "store", "runs"):
            list(list_objects(f"s3://{bucket}/{prefix}"))
        assert read_bytes(f"s3://{bucket}/data/ads/a.mp4")[0] == b"video"
        for key in ("store/recordings/1.npy", "runs/r/heartbeat.json"):
            write_bytes(f"s3://{bucket}/{key}", b"content")
            assert read_bytes(f"s3://{bucket}/{key}")[0] == b"content"
        s3 = aws("s3")
        upload = s3.create_multipart_upload(Bucket=bucket, Key="runs/r/last.ckpt")
        s3.abort_multipart_upload(
            Bucket=bucket, Key="runs/r/last.ckpt", UploadId=upload["UploadId"]
        )
        s3.delete_object(Bucket=bucket, Key="runs/r/heartbeat.json")


def test_instance_s_other_calls_are_refused(world, bucket, monkeypatch):
    other = world.new_bucket(**{"data/a.mp4": b"video", "runs/r/plan.json": b"{}"})
    keys = instance_keys(world, bucket)
    with acting(world, monkeypatch, keys):
        assert refused(read_bytes, f"s3://{bucket}/private/letter.txt")
        assert refused(write_bytes, f"s3://{bucket}/data/ads/a.mp4", b"changed")
        assert refused(write_bytes, f"s3://{bucket}/index.html", b"")
        assert refused(read_bytes, f"s3://{other}/data/a.mp4")
        assert refused(write_bytes, f"s3://{other}/runs/r/stop.json", b"{}")
        assert refused(lambda: list(list_objects(f"s3://{other}/data")))
        s3, ec2, iam = map(aws, ("s3", "ec2", "iam"))
        assert refused(s3.delete_object, Bucket=bucket, Key="data/ads/a.mp4")
        assert refused(s3.list_buckets)
        assert refused(ec2.describe_instances)
        assert refused(ec2.terminate_instances, InstanceIds=["i-0123456789abcdef0"])
        one = {"ImageId": CPU_IMAGE, "InstanceType": "c7i.2xlarge", "MinCount": 1, "MaxCount": 1}
        assert refused(ec2.run_instances, **one)
        assert refused(iam.list_roles)
    assert world.objects(bucket, "data/") == {"data/ads/a.mp4": b"video"}
