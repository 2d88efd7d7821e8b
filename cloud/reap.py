"""Reap: all of ours on AWS that is billed, ended where it should have ended, and the proof."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cloud.aws import AwsError, call, pages
from cloud.instances import (
    GONE,
    Instance,
    find_instances,
    terminate,
    wait_for_disks,
    wait_until_gone,
)
from cloud.permissions import PROJECT
from cloud.run_record import RunRecord, seconds_between, utc_now
from cloud.s3 import S3Error
from cloud.schedule import delete_schedule, list_schedules

OLD_UPLOAD_HOURS = 24.0  # an unfinished upload that is younger may be under way
PREFIXES = ("runs/", "store/", "data/")  # of uploads of ours
INSTANCE, VOLUME, SCHEDULE, UPLOAD = "instance", "volume", "schedule", "upload"
KINDS = (INSTANCE, VOLUME, SCHEDULE, UPLOAD)


@dataclass(frozen=True)
class Found:
    """One thing of ours."""

    kind: str
    name: str
    place: str  # region or bucket
    words: str  # what it is
    why: str = ""  # it should be gone; "" where it should not
    run: str = ""
    ended: str = ""  # what became of it


@dataclass(frozen=True)
class Rule:
    """What should be gone, besides what has outlived its deadline."""

    older_than_hours: float | None = None  # instances
    everything: bool = False
    bucket_of: dict[str, str] = field(default_factory=dict)  # by run, to look whether it ended


@dataclass(frozen=True)
class Looked:
    """One look at one kind of thing; the proof is made of these."""

    kind: str
    place: str
    found: list[Found]
    refused: str = ""  # why it could not be looked at


def look(regions: Sequence[str], buckets: Sequence[str], rule: Rule) -> list[Looked]:
    """What there is, and why it should be gone; nothing is ended by looking."""
    looked = []
    for region in regions:
        live = _look(INSTANCE, region, lambda r=region: _instances(r, rule))
        ids = {found.name for found in live.found}
        looked.append(live)
        looked.append(_look(VOLUME, region, lambda r=region: _volumes(r)))
        looked.append(_look(SCHEDULE, region, lambda r=region, ids=ids: _schedules(r, ids)))
    for bucket in buckets:
        looked.append(_look(UPLOAD, bucket, lambda b=bucket: _uploads(b, rule)))
    return looked


def reap(looked: Sequence[Looked]) -> list[Found]:
    """Ends all that should be gone; returns it with what became of it, schedules last."""
    due = [found for one in looked for found in one.found if found.why]
    for found in due:  # all at once, then they are waited for
        if found.kind == INSTANCE:
            _attempt(lambda f=found: terminate(f.place, f.name))
    ended = [replace(found, ended=_end(found)) for found in due]
    gone = [found for found in ended if found.kind == INSTANCE and found.ended in GONE]
    for region, run in {(found.place, found.run) for found in gone}:
        _attempt(lambda r=region, name=run: wait_for_disks(r, name))
    return ended


def proof_lines(looked: Sequence[Looked]) -> tuple[list[str], bool]:
    """What was looked at and what is there, and whether all of it could be seen to be nothing."""
    lines, clean = ["what was looked at, and what is there now:"], True
    for one in looked:
        billed = one.found if one.kind != SCHEDULE else []
        count = f"{len(one.found)}" if one.found else "none"
        if one.refused:
            count, clean = f"not seen: {one.refused}", False
        free = " (cost nothing)" if one.found and one.kind == SCHEDULE else ""
        lines.append(f"  {one.kind + 's':<10} {one.place:<24} {count}{free}")
        lines += [f"    {found.name} {found.words}" for found in one.found]
        clean = clean and not billed
    verdict = (
        "nothing of ours is billed there any more, but what lies in S3"
        if clean
        else "not proved: see above"
    )
    return [*lines, verdict], clean


def _look(kind: str, place: str, find) -> Looked:
    try:
        return Looked(kind, place, find())
    except (AwsError, S3Error) as error:
        return Looked(kind, place, [], str(error))


def _instances(region: str, rule: Rule) -> list[Found]:
    found = []
    for instance in find_instances(region):
        if instance.state not in GONE:
            hours = seconds_between(instance.launched, utc_now()) / 3600
            run = instance.tags.get("Run", "")
            kind = f"{instance.instance_type} {instance.market}"
            words = f"{kind}, {instance.state} for {hours:.1f} h, {run or 'of no run'}"
            why = _why_due(instance, hours, rule)
            found.append(Found(INSTANCE, instance.instance_id, region, words, why, run))
    return found


def _why_due(instance: Instance, hours: float, rule: Rule) -> str:
    deadline, run = instance.tags.get("Deadline"), instance.tags.get("Run")
    if rule.everything:
        return "all are asked for"
    if deadline and seconds_between(deadline, utc_now()) > 0:
        return "past its deadline"
    if instance.state in ("stopping", "stopped"):
        return "stopped, and its disk is billed"
    if rule.older_than_hours is not None and hours > rule.older_than_hours:
        return f"older than {rule.older_than_hours:g} h"
    if run in rule.bucket_of:
        record = RunRecord(rule.bucket_of[run], run)
        for attempt in record.read_attempts():
            if attempt.instance_id == instance.instance_id:
                end = record.read_end(attempt.number)
                return f"its attempt has ended ({end.state})" if end else ""
    return ""


def _volumes(region: str) -> list[Found]:
    filters = [{"Name": "tag:Project", "Values": [PROJECT]}]
    return [
        Found(
            VOLUME,
            volume["VolumeId"],
            region,
            f"{volume['Size']} GB {volume['State']}",
            "of no instance" if volume["State"] == "available" else "",
        )
        for volume in pages("ec2", "describe_volumes", region, "Volumes", Filters=filters)
        if volume["State"] not in ("deleting", "deleted")
    ]


def _schedules(region: str, running: set[str]) -> list[Found]:
    found = []
    for schedule in list_schedules(region):
        described = call("scheduler", "get_schedule", region, Name=schedule.name)
        words = described.get("Description", "")
        is_needed = any(instance_id in words for instance_id in running)
        why = "" if is_needed else "its instance is gone"
        found.append(Found(SCHEDULE, schedule.name, region, words, why))
    return found


def _uploads(bucket: str, rule: Rule) -> list[Found]:
    """Unfinished ones: their parts are billed, and no listing shows them."""
    found = []
    for prefix in PREFIXES:
        for upload in pages(
            "s3", "list_multipart_uploads", None, "Uploads", Bucket=bucket, Prefix=prefix
        ):
            hours = (datetime.now(UTC) - upload["Initiated"]).total_seconds() / 3600
            why = "unfinished for a day" if hours > OLD_UPLOAD_HOURS or rule.everything else ""
            name = f"{upload['Key']} {upload['UploadId']}"
            found.append(Found(UPLOAD, name, bucket, f"begun {hours:.1f} h ago", why))
    return found


def _attempt(action) -> str:
    """What AWS says against it; "" where it was done."""
    try:
        action()
    except AwsError as error:
        return str(error)
    return ""


def _end(found: Found) -> str:
    if found.kind == INSTANCE:
        states: list[str] = []
        refused = _attempt(lambda: terminate(found.place, found.name)) or _attempt(
            lambda: states.append(wait_until_gone(found.place, found.name))
        )
        return refused or states[0]
    if found.kind == VOLUME:
        delete = {"VolumeId": found.name}
        return _attempt(lambda: call("ec2", "delete_volume", found.place, **delete)) or "deleted"
    if found.kind == SCHEDULE:
        return _attempt(lambda: delete_schedule(found.place, found.name)) or "deleted"
    key, _, upload_id = found.name.rpartition(" ")
    abort = {"Bucket": found.place, "Key": key, "UploadId": upload_id}
    return _attempt(lambda: call("s3", "abort_multipart_upload", **abort)) or "aborted"
