"""The made AWS itself: what the tests of the launcher take for granted."""

import os
import signal
import subprocess
import sys
import time

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.aws_world import CPU_IMAGE, GPU_IMAGE, REGION, World
from tests.machines import ROOT, marked_processes, wait_for
from tests.steady import steady_seconds

QUICK = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()
    assert not world.processes()


def ask(world, service, monkeypatch):
    """A client of the laptop's."""
    import boto3

    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.client(service, config=QUICK)


def run_instance(ec2, text, **how):
    answer = ec2.run_instances(
        **{
            "ImageId": CPU_IMAGE,
            "InstanceType": "c7i.4xlarge",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": "#!/bin/bash\n" + text,
            "InstanceInitiatedShutdownBehavior": "terminate",
            **how,
        }
    )
    return answer["Instances"][0]["InstanceId"]


@pytest.fixture
def ec2(world, monkeypatch):
    return ask(world, "ec2", monkeypatch)


def test_instance_runs_its_user_data_and_is_gone_when_it_powers_off(world, ec2):
    number = run_instance(ec2, "echo hello from $ADGAME_HOME\nshutdown -P now\nsleep 60")
    assert world.wait_until_empty(10)
    (machine,) = world.machines
    assert machine.console == f"hello from {machine.home}\n"
    assert machine.ended == "shut itself down"
    found = ec2.describe_instances(InstanceIds=[number])["Reservations"][0]["Instances"][0]
    assert found["State"]["Name"] == "terminated"
    assert world.volumes_left() == []


def test_instance_that_nobody_stops_stays(world, ec2):
    run_instance(ec2, "true")
    assert not world.wait_until_empty(0.5)


def test_instance_that_stops_instead_of_terminating_is_left(world, ec2):
    run_instance(ec2, "poweroff", InstanceInitiatedShutdownBehavior="stop")
    assert wait_for(lambda: world.machines[0].ended, 10)
    assert world.left()


@pytest.mark.parametrize(
    "timer", ["shutdown -P +1", "systemd-run --on-active=1min systemctl poweroff"]
)
def test_timers_run_in_scaled_minutes(world, ec2, timer):
    world.clock.minute_seconds = 0.6
    start = steady_seconds()
    run_instance(ec2, f"{timer}\nsleep 60")
    assert world.wait_until_empty(10)
    assert 0.6 < steady_seconds() - start < 5


def test_cancelled_shutdown_does_not_happen(world, ec2):
    world.clock.minute_seconds = 0.3
    run_instance(ec2, "shutdown -P +1; shutdown -c; sleep 60")
    assert not world.wait_until_empty(1.0)


def test_terminated_instance_may_save_and_is_then_killed(world, ec2):
    world.clock.stop_seconds = 1.0
    text = "trap 'touch $HOME/saved' TERM; touch $HOME/ready; while true; do sleep 0.1; done"
    number = run_instance(ec2, text)
    machine = world.machines[0]
    assert wait_for((machine.folder / "root" / "ready").exists, 5)
    ec2.terminate_instances(InstanceIds=[number])
    assert world.wait_until_empty(10)
    assert (machine.folder / "root" / "saved").exists()
    assert machine.ended == "terminated: by the laptop"


def test_processes_that_leave_their_session_end_with_the_instance(world, ec2):
    loop = "trap '' TERM HUP; while true; do sleep 1; done"
    run_instance(ec2, f'setsid nohup bash -c "{loop}" escaped &')
    machine = world.machines[0]
    world.clock.stop_seconds = 0.2
    assert wait_for(lambda: machine.processes("escaped"), 5)
    machine.terminate("test")
    assert machine.wait(10)
    assert not machine.processes()


def test_nothing_survives_tests_that_are_killed(tmp_path):
    code = f"""
import os, subprocess, time
from tests.machines import MARK, keep_watch
keep_watch("killed-{os.getpid()}")
subprocess.Popen(["sleep", "60"], env={{**os.environ, MARK: "killed-{os.getpid()}/i-1"}})
print("ready", flush=True)
time.sleep(60)
"""
    tests = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert tests.stdout.readline() == b"ready\n"
    mark = f"killed-{os.getpid()}"
    assert list(marked_processes(mark))
    os.kill(tests.pid, signal.SIGKILL)
    tests.wait()
    assert wait_for(lambda: not list(marked_processes(mark)), 10)


def test_computer_of_the_tests_can_not_be_switched_off(world, ec2):
    run_instance(ec2, "for name in init sudo mount telinit; do command -v $name; done; echo .")
    assert wait_for(lambda: world.machines[0].console == ".\n", 5)


def test_metadata_wants_a_token_and_shows_a_notice(world, ec2):
    run_instance(ec2, "sleep 60", InstanceMarketOptions={"MarketType": "spot"})
    machine = world.machines[0]
    url = machine.metadata.url + "/latest/"

    def get(path, *words):
        command = ["curl", "-s", "-w", " %{http_code}", *words, url + path]
        return subprocess.run(command, capture_output=True, text=True).stdout

    assert get("meta-data/instance-id") == " 401"
    token = get("api/token", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60")
    header = ("-H", f"X-aws-ec2-metadata-token: {token.split()[0]}")
    assert get("meta-data/instance-id", *header) == f"{machine.id} 200"
    assert get("meta-data/spot/instance-action", *header) == " 404"
    machine.interrupt(0.5)
    assert '"action": "terminate"' in get("meta-data/spot/instance-action", *header)
    assert machine.wait(10)
    assert machine.ended == "terminated: spot interruption"


def test_same_token_starts_one_instance(world, ec2):
    first = run_instance(ec2, "sleep 60", ClientToken="a")
    assert run_instance(ec2, "sleep 60", ClientToken="a") == first
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        run_instance(ec2, "sleep 61", ClientToken="a")
    assert world.left() == [first]


def test_answer_that_is_lost_leaves_an_instance(world, ec2):
    world.fail("RunInstances", "lost")
    with pytest.raises(Exception, match="[Cc]onnection"):
        run_instance(ec2, "sleep 60", ClientToken="a")
    assert run_instance(ec2, "sleep 60", ClientToken="a") == world.left()[0]


def test_missing_capacity_is_a_server_error(world, ec2):
    world.capacity = lambda market, kind, zone: market == "spot" and "InsufficientInstanceCapacity"
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity") as caught:
        run_instance(ec2, "true", InstanceMarketOptions={"MarketType": "spot"})
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert run_instance(ec2, "true") == world.left()[0]


@pytest.mark.parametrize(
    ("how", "code"),
    [("denied", "UnauthorizedOperation"), ("throttled", "RequestLimitExceeded"), ("X", "X")],
)
def test_calls_fail_by_name_as_often_as_told(world, ec2, how, code):
    fault = world.fail("DescribeVpcs", how, after=1)
    ec2.describe_vpcs()
    with pytest.raises(ClientError, match=code):
        ec2.describe_vpcs()
    ec2.describe_vpcs()
    assert fault.met == 3
    assert [call.name for call in world.calls] == ["DescribeVpcs"] * 3


def test_cut_off_laptop_gets_no_answer_and_instances_do(world, ec2):
    ec2.describe_vpcs()
    with world.laptop_cut_off():
        for _ in range(2):  # the connection that there was, and a new one
            with pytest.raises(Exception, match="[Cc]onnect"):
                ec2.describe_vpcs()
        run_instance(world.client("ec2"), "curl -s -w '%{http_code}' $AWS_ENDPOINT_URL/b/key")
        assert wait_for(lambda: "40" in world.machines[0].console, 10)  # 403, 404: an answer
    ec2.describe_vpcs()


def test_instance_gets_the_keys_of_its_role_and_nothing_without_one(world, ec2, monkeypatch):
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    iam = world.client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}", Path="/")
    iam.create_instance_profile(InstanceProfileName="p")
    iam.add_role_to_instance_profile(InstanceProfileName="p", RoleName="r")
    who = f"AWS_DEFAULT_REGION={REGION} aws sts get-caller-identity"
    run_instance(ec2, who, IamInstanceProfile={"Name": "p"})
    run_instance(ec2, who)
    with_role, without = world.machines
    assert wait_for(lambda: "assumed-role/r/" in with_role.console, 20), with_role.console
    assert wait_for(lambda: "Unable to locate credentials" in without.console, 20)


def test_schedule_terminates_at_its_time(world, ec2, monkeypatch):
    world.clock.minute_seconds = 1.5
    number = run_instance(ec2, "sleep 60")
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 60))
    ask(world, "scheduler", monkeypatch).create_schedule(
        Name="end",
        ScheduleExpression=f"at({moment})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": "arn:aws:iam::123456789012:role/x",
            "Input": f'{{"InstanceIds": ["{number}"]}}',
        },
    )
    assert world.schedules() == ["end"]
    assert not world.wait_until_empty(0.5)
    assert world.wait_until_empty(10)
    assert world.fired == ["end"]


def test_prices_quotas_and_images_are_known(world, ec2, monkeypatch):
    found = ec2.describe_spot_price_history(InstanceTypes=["g4dn.xlarge"])["SpotPriceHistory"]
    assert {item["AvailabilityZone"][-1]: float(item["SpotPrice"]) for item in found} == {
        "a": 0.22092,
        "b": 0.2104,
        "c": 0.2367,
    }
    products = ask(world, "pricing", monkeypatch).get_products(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g4dn.xlarge"}],
    )
    assert '"0.5260000000"' in products["PriceList"][0]
    quotas = ask(world, "service-quotas", monkeypatch)
    assert (
        quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-3819A6DF")["Quota"]["Value"] == 64
    )
    name = (
        "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
    )
    ssm = ask(world, "ssm", monkeypatch)
    assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == GPU_IMAGE
    with pytest.raises(ClientError, match="ParameterNotFound"):
        ssm.get_parameter(Name="/aws/service/none")
    images = ec2.describe_images(
        Owners=["amazon"], Filters=[{"Name": "name", "Values": ["Deep Learning Base*"]}]
    )["Images"]
    assert GPU_IMAGE in {image["ImageId"] for image in images}
    assert all("driver version" in image["Description"] for image in images)
