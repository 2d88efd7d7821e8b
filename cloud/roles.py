"""Roles: what an instance may do, and what the scheduler that terminates it may; made once."""

import json

from cloud.aws import AwsError, call, until_known
from cloud.permissions import PROJECT, SCHEDULER_ROLE, instance_role, policies

INSTANCE_POLICY = "bucket"  # its name in the role; that of the scheduler has the region's
MISSING = "NoSuchEntity"
TAKEN = "EntityAlreadyExists"


def ensure_roles(bucket: str, region: str, account: str, partition: str) -> list[str]:
    """Makes what is missing, and returns a line for each thing that was made.

    Roles, and the profile that hands one of them to instances, cost nothing and stay.
    """
    documents = policies(bucket, region, account, partition)
    role = instance_role(bucket)
    made = _ensure_role(role, documents["instance_trust"])
    made += _ensure_policy(role, INSTANCE_POLICY, documents["instance"])
    made += _ensure_profile(role)
    made += _ensure_role(SCHEDULER_ROLE, documents["scheduler_trust"])
    made += _ensure_policy(SCHEDULER_ROLE, region, documents["scheduler"])
    return made


def missing_roles(bucket: str, region: str) -> list[str]:
    """What `ensure_roles` would make, in words; a policy that is there is taken to be right."""
    missing = []
    of_instances = instance_role(bucket)
    for role, policy in ((of_instances, INSTANCE_POLICY), (SCHEDULER_ROLE, region)):
        if _ask("get_role", RoleName=role) is None:
            missing.append(f"role {role}")
        elif _ask("get_role_policy", RoleName=role, PolicyName=policy) is None:
            missing.append(f"policy {policy} in role {role}")
    profile = _ask("get_instance_profile", InstanceProfileName=of_instances)
    if profile is None or not profile["InstanceProfile"]["Roles"]:
        missing.append(f"instance profile {of_instances}")
    return missing


def _ensure_role(name: str, trust: dict) -> list[str]:
    if _ask("get_role", RoleName=name) is not None:
        return []
    tags = [{"Key": "Project", "Value": PROJECT}]
    _make("create_role", RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Tags=tags)
    return [f"role {name}"]


def _ensure_policy(role: str, name: str, document: dict) -> list[str]:
    found = _ask("get_role_policy", RoleName=role, PolicyName=name)
    if found is not None and found["PolicyDocument"] == document:
        return []
    put = {"RoleName": role, "PolicyName": name, "PolicyDocument": json.dumps(document)}
    until_known(lambda: call("iam", "put_role_policy", **put), [MISSING])
    return [f"policy {name} in role {role}"]


def _ensure_profile(name: str) -> list[str]:
    found = _ask("get_instance_profile", InstanceProfileName=name)
    if found is not None and found["InstanceProfile"]["Roles"]:
        return []
    if found is None:
        _make("create_instance_profile", InstanceProfileName=name)
    add = {"InstanceProfileName": name, "RoleName": name}
    until_known(lambda: _make("add_role_to_instance_profile", **add), [MISSING])
    return [f"instance profile {name}"]


def _ask(operation: str, **arguments) -> dict | None:
    """The answer, or None where there is no such thing."""
    try:
        return call("iam", operation, **arguments)
    except AwsError as error:
        if error.code != MISSING:
            raise
    return None


def _make(operation: str, **arguments) -> None:
    try:
        call("iam", operation, **arguments)
    except AwsError as error:
        # LimitExceeded: a profile holds one role, and another launcher has just put it there.
        if error.code not in (TAKEN, "LimitExceeded"):
            raise
