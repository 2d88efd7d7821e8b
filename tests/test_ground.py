"""Ground: network, roles, images and schedules: found or made once, open to nobody."""

import json
from dataclasses import replace

import pytest

from cloud import images
from cloud.aws import AwsError, CloudError
from cloud.images import find_image
from cloud.network import GROUP, ensure_group, find_group, find_network
from cloud.permissions import SCHEDULER_ROLE, instance_role, policies
from cloud.roles import INSTANCE_POLICY, ensure_roles, missing_roles
from cloud.schedule import delete_schedule, list_schedules, schedule_end, schedule_name
from tests.aws_catalog import CPU_IMAGE, GPU_IMAGE, OLD_GPU_IMAGE
from tests.aws_world import REGION
from tests.launching import ATTEMPT, NAME

ACCOUNT = "123456789012"


# --- network


def test_subnets_are_those_of_the_default_network_by_zone(aws):
    vpc, subnets = find_network(REGION)
    assert vpc.startswith("vpc-")
    assert set(subnets) >= {"us-east-1a", "us-east-1b"}
    assert all(zone.startswith(REGION) for zone in subnets)


def test_missing_default_network_is_said_with_the_command_that_makes_it(aws):
    ec2 = aws.client("ec2")
    vpc, subnets = find_network(REGION)
    for subnet in subnets.values():
        ec2.delete_subnet(SubnetId=subnet)
    with pytest.raises(CloudError, match="create-default-subnet"):
        find_network(REGION)
    ec2.delete_vpc(VpcId=vpc)
    with pytest.raises(CloudError, match="aws ec2 create-default-vpc --region us-east-1"):
        find_network(REGION)


def test_group_is_made_once_tagged_and_lets_nobody_in(aws):
    vpc, _ = find_network(REGION)
    assert find_group(REGION, vpc) is None
    group = ensure_group(REGION, vpc)
    assert ensure_group(REGION, vpc) == group
    (found,) = aws.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert found["IpPermissions"] == []
    assert found["GroupName"] == GROUP
    assert {"Key": "Project", "Value": "ad-game-classifier"} in found["Tags"]


def test_group_into_which_somebody_opened_a_way_is_refused(aws):
    vpc, _ = find_network(REGION)
    group = ensure_group(REGION, vpc)
    way = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    aws.client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[way])
    with pytest.raises(CloudError, match="has inbound rules"):
        ensure_group(REGION, vpc)


# --- roles


def test_roles_are_made_once_with_the_policies_of_the_bucket(aws):
    role = instance_role("my-bucket")
    missing = missing_roles("my-bucket", REGION)
    assert missing[:2] == [f"role {role}", f"role {SCHEDULER_ROLE}"]
    made = ensure_roles("my-bucket", REGION, ACCOUNT, "aws")
    assert len(made) == 5
    assert missing_roles("my-bucket", REGION) == []
    assert ensure_roles("my-bucket", REGION, ACCOUNT, "aws") == []
    iam, expected = aws.client("iam"), policies("my-bucket", REGION, ACCOUNT)
    trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    assert trust == expected["instance_trust"]
    found = iam.get_role_policy(RoleName=role, PolicyName=INSTANCE_POLICY)["PolicyDocument"]
    assert found == expected["instance"]
    profile = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [instance_role("my-bucket")]


def test_second_bucket_gets_a_role_of_its_own_and_the_first_keeps_its(aws):
    ensure_roles("bucket-one", REGION, ACCOUNT, "aws")
    assert len(ensure_roles("bucket-two", REGION, ACCOUNT, "aws")) == 3  # and no other scheduler
    for bucket, other in (("bucket-one", "bucket-two"), ("bucket-two", "bucket-one")):
        role = instance_role(bucket)
        (name,) = aws.client("iam").list_role_policies(RoleName=role)["PolicyNames"]
        found = aws.client("iam").get_role_policy(RoleName=role, PolicyName=name)
        text = json.dumps(found["PolicyDocument"])
        assert bucket in text
        assert other not in text


def test_policy_that_somebody_widened_is_put_right(aws):
    ensure_roles("my-bucket", REGION, ACCOUNT, "aws")
    wide = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    }
    aws.client("iam").put_role_policy(
        RoleName=instance_role("my-bucket"),
        PolicyName=INSTANCE_POLICY,
        PolicyDocument=json.dumps(wide),
    )
    assert len(ensure_roles("my-bucket", REGION, ACCOUNT, "aws")) == 1


def test_who_may_not_make_roles_is_told_so(aws):
    aws.fail("CreateRole", "denied")
    with pytest.raises(AwsError, match="iam:CreateRole was refused"):
        ensure_roles("my-bucket", REGION, ACCOUNT, "aws")


# --- images


def test_image_is_the_one_that_the_parameter_names(aws):
    gpu, cpu = find_image(REGION, gpu=True), find_image(REGION, gpu=False)
    assert (gpu.image_id, cpu.image_id) == (GPU_IMAGE, CPU_IMAGE)
    assert gpu.source == cpu.source == "SSM parameter"
    assert gpu.root_device.startswith("/dev/")


def test_image_is_found_by_its_name_where_there_is_no_parameter(aws):
    aws.fail("GetParameter", "ParameterNotFound", count=99)
    assert find_image(REGION, gpu=True).image_id == GPU_IMAGE
    found = find_image(REGION, gpu=False)
    assert (found.image_id, found.source) == (CPU_IMAGE, "name")


def test_image_whose_driver_is_too_old_is_not_taken(aws):
    assert not images._has_driver({"Name": "AMI 20261009", "Description": "driver 570.86.15"})
    assert images._has_driver({"Name": "AMI 20200101", "Description": "NVIDIA driver: 580.95.05"})
    assert images._has_driver({"Name": "Some AMI (Ubuntu 24.04) 20261009", "Description": "GPU"})
    assert not images._has_driver({"Name": "Some AMI (Ubuntu 24.04) 20250601"})
    assert not images._has_driver({"Name": "Some AMI without a date"})


def test_region_with_old_images_alone_is_refused_before_anything_is_paid_for(aws):
    aws.fail("GetParameter", "ParameterNotFound", count=99)
    aws.client("ec2").deregister_image(ImageId=GPU_IMAGE)
    assert OLD_GPU_IMAGE in {i["ImageId"] for i in aws.client("ec2").describe_images()["Images"]}
    with pytest.raises(CloudError, match=r"20250101.*from before NVIDIA driver 580"):
        find_image(REGION, gpu=True)


def test_refused_look_at_parameters_stops_at_once(aws):
    aws.fail("GetParameter", "denied")
    with pytest.raises(AwsError, match="ssm:GetParameter was refused"):
        find_image(REGION, gpu=True)


# --- schedule


def test_end_is_ordered_for_the_deadline_once_and_taken_back(aws):
    attempt = replace(ATTEMPT, instance_id="i-0123", deadline="2030-01-02T03:04:05+00:00")
    name = schedule_end(REGION, NAME, attempt, account=ACCOUNT)
    assert schedule_end(REGION, NAME, attempt, account=ACCOUNT) == name
    found = aws.client("scheduler").get_schedule(Name=name)
    assert found["ScheduleExpression"] == "at(2030-01-02T03:04:05)"
    assert json.loads(found["Target"]["Input"]) == {"InstanceIds": ["i-0123"]}
    assert found["Target"]["Arn"].endswith("aws-sdk:ec2:terminateInstances")
    assert found["Target"]["RoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/{SCHEDULER_ROLE}"
    assert [schedule.name for schedule in list_schedules(REGION)] == [name]
    delete_schedule(REGION, name)
    delete_schedule(REGION, name)
    assert list_schedules(REGION) == []


def test_names_of_schedules_fit_and_differ_by_run_and_attempt():
    long = f"2026-11-22_06-10-00-{'a' * 200}-x7k2"
    names = {schedule_name(run, number) for run in (NAME, long[:-1] + "3") for number in (1, 2)}
    assert len(names) == 4
    assert all(len(name) <= 64 for name in names)
    assert all(name.startswith("ad-game-classifier-") for name in names)
