"""Account: what a run on AWS needs there, what was found, and the cure."""

from collections import Counter
from collections.abc import Callable, Sequence

from cloud.aws import AwsError, CloudError, bucket_region, call, caller
from cloud.images import find_image
from cloud.network import find_group, find_network
from cloud.permissions import SCHEDULER_ROLE, instance_role
from cloud.plan import (
    Choice,
    Constraints,
    list_videos,
    make_plan,
    measure_videos,
    read_rates,
)
from cloud.prices import read_prices
from cloud.quotas import Quota, raise_quota, read_quotas
from cloud.roles import missing_roles
from cloud.rows import Row
from cloud.s3 import S3Error, S3Object, list_objects

# As utils/recordings.py has it: these folders are no classes.
VALIDATION, RECORDINGS = "validation", "recordings"


def check_account(
    bucket: str,
    region: str | None = None,
    constraints: Constraints | None = None,
    *,
    script: str = "cost_optimized_train.py",
    video_hours: float | None = None,
) -> list[Row]:
    """A row for each thing that a run needs; a run can start where none is MISSING.

    `region` is None for that of the bucket. Ends early where the rest can't be looked at.
    """
    rows: list[Row] = []
    # Without region: that of the bucket is not known yet, and everybody is known in all of them.
    who = _ask(rows, "credentials", lambda: caller(region or "us-east-1"))
    if who is None:
        return rows
    account, _, name = who
    rows.append(Row("ok", "credentials", f"{name} of account {account}", ""))
    home = _ask(rows, "bucket", lambda: bucket_region(bucket))
    if home is None:
        return rows
    rows.append(Row("ok", "bucket", f"s3://{bucket}", ""))
    rows.append(_region_row(home, region or home))
    region = region or home
    rows.append(_public_access_row(bucket, home))
    videos = _ask(rows, "videos", lambda: list_videos(bucket))
    if videos is not None:
        rows += _class_rows(bucket, videos)
        rows.append(_store_row(bucket))
    constraints = constraints or Constraints()
    prices = _ask(rows, "prices", lambda: read_prices(region, constraints.instance))
    if prices is not None:
        for line in prices.sources:
            what, _, found = line.partition(": ")
            bundled = "bundled" in found and "could not be had" in found
            rows.append(Row("note" if bundled else "ok", f"price, {what}", found, ""))
    choices: Sequence[Choice] = ()
    if prices is not None and videos is not None:
        size, rates = measure_videos(videos, video_hours), read_rates(script)
        choices = _ask(rows, "plan", lambda: make_plan(size, rates, prices, constraints)) or ()
    if choices:
        rows.append(_plan_row(choices[0], size.hours))
        rows += _quota_rows(choices, region)
        rows += _image_rows(choices, region)
    rows.append(_network_row(region))
    rows.append(_roles_row(bucket, region))
    return rows


def _region_row(home: str, region: str) -> Row:
    if region == home:
        return Row("ok", "region", f"{region}, that of the bucket", "")
    cure = "leave --region out: what leaves a region costs by the GB, and takes longer"
    return Row("note", "region", f"{region}, and the bucket is in {home}", cure)


def _public_access_row(bucket: str, region: str) -> Row:
    try:
        answer = call("s3", "get_public_access_block", region, Bucket=bucket)
        closed = all(answer["PublicAccessBlockConfiguration"].values())
    except AwsError as error:
        if error.code != "NoSuchPublicAccessBlockConfiguration":
            return Row("note", "public access", *_found_and_cure(error))
        closed = False
    if closed:
        return Row("ok", "public access", "blocked", "")
    cure = (
        f"`aws s3api put-public-access-block --bucket {bucket} --public-access-block-configuration "
        "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,"
        "RestrictPublicBuckets=true`"
    )
    return Row("note", "public access", "not blocked in full", cure)


def _class_rows(bucket: str, videos: Sequence[S3Object]) -> list[Row]:
    """One for each class folder, with those held out for validation, and one for recordings."""
    files, sizes = Counter(), Counter()
    for video in videos:
        folder, _, rest = video.url.removeprefix(f"s3://{bucket}/data/").partition("/")
        if folder == VALIDATION:
            folder, _, rest = rest.partition("/")
        folder = folder if rest else "(in no class folder)"
        files[folder] += 1
        sizes[folder] += video.size_bytes
    rows = [
        Row(
            "ok",
            f"videos: {name}",
            f"{count:,} file{'s' * (count != 1)}, {sizes[name] / 1e9:.1f} GB",
            "",
        )
        for name, count in sorted(files.items())
    ]
    if len(files) == 1 and RECORDINGS not in files:
        cure = f"put those of another into s3://{bucket}/data/games or the like"
        rows.append(Row("MISSING", "classes", f"only {next(iter(files))}", cure))
    return rows


def _store_row(bucket: str) -> Row:
    """Whether recordings are prepared already, which makes a run shorter than planned."""
    rows: list[Row] = []
    prepared = _ask(rows, "prepared", lambda: list(list_objects(f"s3://{bucket}/store")))
    if prepared is None:
        return rows[0]
    if not prepared:
        return Row("ok", "prepared", "nothing yet: the first run does that, and keeps it", "")
    gigabytes = sum(item.size_bytes for item in prepared) / 1e9
    found = f"{gigabytes:.1f} GB in s3://{bucket}/store, which are not decoded again"
    return Row("ok", "prepared", found, "")


def _plan_row(choice: Choice, video_hours: float) -> Row:
    found = (
        f"{choice.instance_type} {choice.market}, {choice.hours:.1f} h and ${choice.dollars:.2f} "
        f"for {video_hours:.1f} h of video"
    )
    return Row("ok", "cheapest way", found, "")


def _quota_rows(choices: Sequence[Choice], region: str) -> list[Row]:
    """Missing only where no choice is left: others that are allowed are tried."""
    try:
        quotas = read_quotas(region, choices)
    except AwsError as error:
        return [Row("note", "quotas", *_found_and_cure(error))]

    def startable(choice: Choice) -> bool:
        return all(quota.allows(choice) for quota in quotas if quota.governs(choice))

    state = "note" if any(map(startable, choices)) else "MISSING"
    return [_quota_row(quota, choices, region, state) for quota in quotas]


def _quota_row(quota: Quota, choices: Sequence[Choice], region: str, state: str) -> Row:
    governed = [choice for choice in choices if quota.governs(choice)]
    needed = min(choice.vcpus for choice in governed)
    found = f"{quota.vcpus:.0f} vCPUs, {needed} needed for {governed[0].instance_type}"
    if any(quota.allows(choice) for choice in governed):
        return Row("ok", f"quota, {quota.name}", found, "")
    cure = f"{raise_quota(quota, needed, region)}; AWS takes hours to days"
    return Row(state, f"quota, {quota.name}", found, cure)


def _image_rows(choices: Sequence[Choice], region: str) -> list[Row]:
    rows: list[Row] = []
    kinds = list(dict.fromkeys(bool(choice.gpu) for choice in choices))
    for gpu in kinds:
        requirement = "image, GPU" if gpu else "image"
        state = "MISSING" if gpu is kinds[0] else "note"  # of what is tried first
        image = _ask(rows, requirement, lambda gpu=gpu: find_image(region, gpu=gpu), state)
        if image:
            rows.append(Row("ok", requirement, f"{image.name} ({image.image_id})", ""))
    return rows


def _network_row(region: str) -> Row:
    rows: list[Row] = []
    network = _ask(rows, "network", lambda: find_network(region))
    if network is None:
        return rows[0]
    vpc, subnets = network
    group = _ask(rows, "network", lambda: find_group(region, vpc) or "a group of ours to be made")
    if group is None:
        return rows[0]
    return Row("ok", "network", f"{vpc}, {len(subnets)} zones, {group} with no way in", "")


def _roles_row(bucket: str, region: str) -> Row:
    rows: list[Row] = []
    missing = _ask(rows, "roles", lambda: missing_roles(bucket, region))
    if missing is None:
        return rows[0]
    if not missing:
        return Row("ok", "roles", f"{instance_role(bucket)} and {SCHEDULER_ROLE}", "")
    cure = "the first run makes them: whoever starts it needs the policy first_time as well"
    return Row("note", "roles", f"not there yet: {', '.join(missing)}", cure)


def _ask(rows: list[Row], requirement: str, ask: Callable, state: str = "MISSING"):
    """What `ask` returns; None, and a row with the reason, where it can't be had."""
    try:
        return ask()
    except (CloudError, S3Error) as error:
        rows.append(Row(state, requirement, *_found_and_cure(error)))
        return None


def _found_and_cure(error: CloudError | S3Error) -> tuple[str, str]:
    """The two halves of an error's line."""
    line = f"{error.filename}: {error.strerror}" if isinstance(error, S3Error) else str(error)
    for mark in ("): ", ": "):
        found, _, cure = line.rpartition(mark)
        if found:
            return found + mark.rstrip(": "), cure
    return line, ""
