"""Permissions: the policies and roles of a run, filled in for one bucket, region and account."""

import hashlib
import json
import string
from pathlib import Path

FOLDER = Path(__file__).parent / "policies"
PROJECT = "ad-game-classifier"  # value of the tag Project, and what names of ours begin with
SCHEDULER_ROLE = "ad-game-classifier-terminator"

# `person` is for who starts runs; `first_time` too, once, for who makes the two roles. Listing is
# allowed by prefix; S3 goes by the same when it says of a missing object that it is missing.
NAMES = ("person", "first_time", "instance", "instance_trust", "scheduler", "scheduler_trust")


def instance_role(bucket: str) -> str:
    """The name of the role of instances of this bucket, and of its instance profile.

    Each bucket has one of its own, so that no instance reaches the data of another bucket.
    """
    return f"{PROJECT}-instance-{hashlib.sha256(bucket.encode()).hexdigest()[:12]}"


def policies(bucket: str, region: str, account: str, partition: str = "aws") -> dict[str, dict]:
    """The documents of NAMES, as IAM takes them once they are written as JSON.

    `account` has twelve digits; `partition` is the second part of any ARN of that account.
    """
    values = {
        "bucket": bucket,
        "region": region,
        "account": account,
        "partition": partition,
        "project": PROJECT,
        "instance_role": instance_role(bucket),
        "scheduler_role": SCHEDULER_ROLE,
    }
    return {name: _fill_in((FOLDER / f"{name}.json").read_text(), values) for name in NAMES}


def _fill_in(template: str, values: dict[str, str]) -> dict:
    return json.loads(string.Template(template).substitute(values))
