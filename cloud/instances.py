"""Instances: started once, found by their tags, ended and seen to be gone."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud.aws import AwsError, call, client, explained, pages, until_known
from cloud.images import Image
from cloud.permissions import PROJECT, instance_role
from cloud.run_record import SPOT, Attempt, RunPlan
from cloud.user_data import user_data

CAPACITY = {  # another type, zone or market may still do
    "InsufficientCapacity",
    "InsufficientCapacityOnHost",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "InstanceLimitExceeded",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",  # the zone has no such type
    "VcpuLimitExceeded",
}
# Not an answer for good: the call is made once more with the same token.
PASSING = {"InternalError", "InternalFailure", "RequestLimitExceeded", "ServiceUnavailable", ""}
PASSING |= {"Unavailable", "Throttling", "ThrottlingException", "RequestThrottled"}
CALLS = 4  # of run_instances for one choice, with waits
LIVE = ("pending", "running", "stopping", "stopped", "shutting-down")
GONE = ("shutting-down", "terminated")  # billing ends with the first of these
DELETED = ("deleting", "deleted")  # states of a disk
TERMINATED_SECONDS, DISK_SECONDS = 300.0, 30.0


class CapacityError(AwsError):
    """AWS has no such instance for us just now."""


@dataclass(frozen=True)
class Place:
    """Where and from what instances of a run are started."""

    region: str
    subnet: str
    group: str
    image: Image


@dataclass(frozen=True)
class Instance:
    """An instance of ours, as EC2 shows it."""

    instance_id: str
    state: str
    instance_type: str
    market: str
    zone: str
    launched: str  # ISO 8601, UTC
    region: str
    tags: dict[str, str]
    reason: str = ""  # why it changed state, in EC2's words

    @property
    def ended(self) -> str | None:
        """When it changed state by the last time that EC2 gives, or None where it gives none."""
        found = re.search(r"\((\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (?:GMT|UTC)\)", self.reason)
        return f"{found[1]}T{found[2]}+00:00" if found else None


def start_instance(plan: RunPlan, attempt: Attempt, place: Place) -> Instance:
    """Starts the instance of an attempt, or finds the one that an earlier call has started.

    The client token sees to that: the same attempt never has two. Raises CapacityError where
    another choice may do, AwsError where none will.
    """
    request = _request(plan, attempt, place)
    for calls_left in reversed(range(CALLS)):
        try:
            answer = until_known(lambda: _run(place.region, request), ["InvalidIamInstanceProfile"])
            return _parse(answer["Instances"][0], place.region)
        except AwsError as error:
            if error.code in CAPACITY:
                raise CapacityError(str(error), error.code) from error
            if error.code == "IdempotentParameterMismatch":  # started with other words, before
                found = find_instances(place.region, run=plan.run, attempt=attempt.number)
                if found:
                    return found[0]
            if error.code not in PASSING or not calls_left:
                raise
        time.sleep(2.0 * (CALLS - calls_left))
    raise AssertionError("the last call returns or raises")


def find_instances(
    region: str, *, run: str | None = None, attempt: int | None = None
) -> list[Instance]:
    """Those of ours that are not terminated, of one run and attempt if that is given."""
    wanted = {"tag:Project": [PROJECT], "instance-state-name": list(LIVE)}
    if run:
        wanted["tag:Run"] = [run]
    if attempt:
        wanted["tag:Attempt"] = [str(attempt)]
    filters = [{"Name": name, "Values": values} for name, values in wanted.items()]
    found = pages("ec2", "describe_instances", region, "Reservations", Filters=filters)
    return [_parse(item, region) for group in found for item in group["Instances"]]


def describe_instance(region: str, instance_id: str) -> Instance | None:
    """What EC2 shows of it; None where EC2 knows it no more, or not yet."""
    try:
        answer = call("ec2", "describe_instances", region, InstanceIds=[instance_id])
    except AwsError as error:
        if error.code in ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"):
            return None
        raise
    found = [item for group in answer["Reservations"] for item in group["Instances"]]
    return _parse(found[0], region) if found else None


def is_gone(instance: Instance | None) -> bool:
    """Whether it is billed no more."""
    return instance is None or instance.state in GONE


def terminate(region: str, instance_id: str) -> None:
    """Ends it; no matter if it has ended."""
    try:
        call("ec2", "terminate_instances", region, InstanceIds=[instance_id])
    except AwsError as error:
        if error.code != "InvalidInstanceID.NotFound":
            raise


def wait_until_gone(
    region: str,
    instance_id: str,
    *,
    seconds: float = TERMINATED_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The state it was last seen in: terminated, or what it is after so many seconds."""
    end = time.monotonic() + seconds
    pause_seconds = 0.5
    while True:
        found = describe_instance(region, instance_id)
        state = found.state if found else "terminated"
        if state == "terminated" or time.monotonic() > end:
            return state
        sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, 10.0)


def wait_for_disks(region: str, run: str, seconds: float = DISK_SECONDS) -> list[str]:
    """Ids of the disks of a run that are billed still; they go some seconds after the instance."""
    filters = [{"Name": "tag:Project", "Values": [PROJECT]}, {"Name": "tag:Run", "Values": [run]}]
    end = time.monotonic() + seconds
    while True:
        found = pages("ec2", "describe_volumes", region, "Volumes", Filters=filters)
        left = [volume["VolumeId"] for volume in found if volume["State"] not in DELETED]
        if not left or time.monotonic() >= end:
            return left
        time.sleep(1.0)


def _run(region: str, request: dict) -> dict:
    """One call, and not one more: see `client`."""
    try:
        with explained("ec2", "RunInstances"):
            return client("ec2", region, only_once=True).run_instances(**request)
    except AwsError as error:
        # A profile made a moment ago is unknown to EC2 for some seconds.
        if error.code == "InvalidParameterValue" and "iamInstanceProfile" in str(error):
            raise AwsError(str(error), "InvalidIamInstanceProfile") from error
        raise


def _request(plan: RunPlan, attempt: Attempt, place: Place) -> dict:
    """The same for the same attempt, which its client token demands."""
    tags = {
        "Name": f"{PROJECT} {plan.run}",
        "Project": PROJECT,
        "Run": plan.run,
        "Attempt": str(attempt.number),
        "Owner": plan.owner,
        "Deadline": attempt.deadline,
    }
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    kinds = ["instance", "volume"] + ["spot-instances-request"] * (attempt.market == SPOT)
    disk = {
        "VolumeType": "gp3",
        "VolumeSize": plan.disk_gb + place.image.root_gb,
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    request = {
        "ClientToken": attempt.client_token,
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": place.image.image_id,
        "InstanceType": attempt.instance_type,
        "IamInstanceProfile": {"Name": instance_role(plan.bucket)},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
        },
        "BlockDeviceMappings": [{"DeviceName": place.image.root_device, "Ebs": disk}],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": place.subnet,
                "Groups": [place.group],
                "AssociatePublicIpAddress": True,  # the way out, to S3 and the package index
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list} for kind in kinds],
        "UserData": user_data(plan, attempt),
    }
    if attempt.market == SPOT:
        spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
    return request


def _parse(item: dict, region: str) -> Instance:
    return Instance(
        instance_id=item["InstanceId"],
        state=item["State"]["Name"],
        instance_type=item["InstanceType"],
        market=item.get("InstanceLifecycle", "on-demand"),
        zone=item.get("Placement", {}).get("AvailabilityZone", ""),
        launched=item["LaunchTime"].isoformat(timespec="seconds"),
        region=region,
        tags={tag["Key"]: tag["Value"] for tag in item.get("Tags", [])},
        reason=re.sub(r"\s+", " ", item.get("StateTransitionReason", "")),
    )
