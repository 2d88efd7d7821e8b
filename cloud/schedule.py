"""Schedule: an instance's end, ordered from outside it, for when all else fails."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from cloud.aws import AwsError, call, pages, until_known
from cloud.permissions import PROJECT, SCHEDULER_ROLE
from cloud.run_record import Attempt

PREFIX = f"{PROJECT}-"
TERMINATE = "arn:{partition}:scheduler:::aws-sdk:ec2:terminateInstances"
MISSING = "ResourceNotFoundException"


@dataclass(frozen=True)
class Schedule:
    """Costs nothing, and deletes itself when it is done."""

    name: str
    region: str


def schedule_name(run: str, number: int) -> str:
    """At most 64 characters: the time and the last letters of the run tell it from others."""
    return f"{PREFIX}{run[:19]}-{run[-4:]}-{number}"


def schedule_end(
    region: str, run: str, attempt: Attempt, *, account: str, partition: str = "aws"
) -> str:
    """Orders that the attempt's instance is terminated at its deadline; returns the name.

    No matter if it is ordered already. Raises AwsError.
    """
    at = datetime.fromisoformat(attempt.deadline).astimezone(UTC)
    name = schedule_name(run, attempt.number)
    request = {
        "Name": name,
        "ScheduleExpression": f"at({at:%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Description": f"{attempt.instance_id} of {run}"[:512],
        "Target": {
            "Arn": TERMINATE.format(partition=partition),
            "RoleArn": f"arn:{partition}:iam::{account}:role/{SCHEDULER_ROLE}",
            "Input": json.dumps({"InstanceIds": [attempt.instance_id]}),
        },
    }

    def create() -> None:
        try:
            call("scheduler", "create_schedule", region, **request)
        except AwsError as error:
            if error.code == "ConflictException":  # made by an earlier call, or being made
                return
            # The role was made a moment ago, and the scheduler may not take it on yet.
            if error.code == "ValidationException" and "role" in str(error):
                raise AwsError(str(error), "RoleUnknown") from error
            raise

    until_known(create, ["RoleUnknown"])
    return name


def delete_schedule(region: str, name: str) -> None:
    """No matter if there is none."""
    try:
        call("scheduler", "delete_schedule", region, Name=name)
    except AwsError as error:
        if error.code != MISSING:
            raise


def list_schedules(region: str) -> list[Schedule]:
    """Those of ours."""
    found = pages("scheduler", "list_schedules", region, "Schedules", NamePrefix=PREFIX)
    return [Schedule(item["Name"], region) for item in found]
