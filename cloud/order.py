"""Order: a run on AWS as it is asked for: what it would take, and every call that it would make."""

import contextlib
import json
from dataclasses import dataclass, field

from cloud.aws import AwsError, bucket_region, caller
from cloud.permissions import policies
from cloud.plan import (
    Choice,
    Constraints,
    describe_plan,
    disk_gigabytes,
    hours_limit,
    list_videos,
    make_plan,
    measure_videos,
    read_rates,
)
from cloud.prices import read_prices
from cloud.quotas import read_quotas, within_quotas
from cloud.run_record import Limits

CALLS = (  # of AWS, in the order of a run
    ("sts", "GetCallerIdentity", "who asks, and in which account"),
    ("s3", "GetBucketLocation, ListObjectsV2", "where the bucket is, and how much video it holds"),
    ("ec2", "DescribeInstanceTypeOfferings, DescribeSpotPriceHistory", "what there is to rent"),
    ("pricing", "GetProducts", "prices on demand, of disks and of addresses"),
    ("servicequotas", "GetServiceQuota", "how many vCPUs the account may have"),
    ("ssm", "GetParameter", "the image, then ec2 DescribeImages, for its driver"),
    ("iam", "GetRole, GetRolePolicy, GetInstanceProfile", "and what makes them, the first time"),
    ("ec2", "DescribeVpcs, DescribeSubnets, DescribeSecurityGroups", "the network"),
    ("ec2", "CreateSecurityGroup", "without a way in, the first time; it costs nothing"),
    ("s3", "PutObject", "code.tar.gz, plan.json and attempts/1.json below runs/RUN"),
    ("ec2", "RunInstances", "one instance: this is what costs"),
    ("scheduler", "CreateSchedule", "its termination, in case all else fails"),
    ("s3", "GetObject", "heartbeat.json and so on, every few seconds, while this is attached"),
    ("ec2", "DescribeInstances, TerminateInstances, DescribeVolumes", "until all is seen gone"),
    ("scheduler", "DeleteSchedule", "which is needed no more"),
)


@dataclass(frozen=True)
class Order:
    """What the user asks for; None leaves it to us."""

    bucket: str
    script: str = "cost_optimized_train.py"
    overrides: tuple[str, ...] = ()
    region: str | None = None
    constraints: Constraints = field(default_factory=Constraints)
    video_hours: float | None = None
    idle_minutes: float | None = None


@dataclass(frozen=True)
class Planned:
    """An order that could be carried out, and what it takes; nothing is begun."""

    order: Order
    region: str
    account: str
    partition: str
    owner: str
    choices: list[Choice]
    disk_gb: int
    limits: Limits
    lines: list[str]  # to show


def plan_run(order: Order) -> Planned:
    """Asks AWS what there is and what it costs; begins nothing. Raises CloudError, S3Error."""
    region = order.region or bucket_region(order.bucket)
    account, partition, owner = caller(region)
    videos = measure_videos(list_videos(order.bucket), order.video_hours)
    rates, prices = read_rates(order.script), read_prices(region, order.constraints.instance)
    choices = make_plan(videos, rates, prices, order.constraints)
    with contextlib.suppress(AwsError):  # who may not see quotas learns of them when starting
        choices = within_quotas(choices, read_quotas(region, choices), region)
    limits = Limits.from_environment(
        {"max_hours": round(hours_limit(choices), 2)},
        max_hours=order.constraints.max_hours,
        max_cost=order.constraints.max_cost,
        idle_minutes=order.idle_minutes,
    )
    lines = describe_plan(order.bucket, videos, rates, prices, choices)
    money = f" or ${limits.max_cost:g}" if limits.max_cost is not None else ""
    lines.append(
        f"limits     ends by itself after {limits.max_hours:g} h{money}, and after "
        f"{limits.idle_minutes:g} min in which nothing goes on (--max-hours, --max-cost, "
        "--idle-minutes)"
    )
    disk_gb = disk_gigabytes(videos, rates)
    return Planned(order, region, account, partition, owner, choices, disk_gb, limits, lines)


def dry_run_lines(planned: Planned) -> list[str]:
    """Every call that a run makes, and the policies that allow them."""
    lines = [f"calls of AWS, in {planned.region}, account {planned.account}:"]
    lines += [f"  {service + ' ' + names:<66} {why}" for service, names, why in CALLS]
    documents = policies(planned.order.bucket, planned.region, planned.account, planned.partition)
    for name, document in documents.items():
        lines += ["", f"policy {name} (cloud/policies/{name}.json):"]
        lines += json.dumps(document, indent=2).splitlines()
    return lines
