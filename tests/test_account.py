"""Account: each thing that a run needs is looked at, and what is missing comes with its cure."""

import pytest

from cloud.account import check_account
from cloud.permissions import SCHEDULER_ROLE, instance_role
from cloud.plan import Constraints
from cloud.roles import ensure_roles
from cloud.rows import Row, print_rows
from tests.aws_world import REGION
from tests.own_world import forget, own_world

VIDEOS = {
    "data/ads/a.mp4": b"x" * 1000,
    "data/ads/b.mp4": b"x" * 1000,
    "data/games/c.mkv": b"x" * 1000,
    "data/validation/ads/d.mp4": b"x" * 1000,
}


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory):
    with own_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(shared_world):
    yield shared_world
    shared_world.faults.clear()


@pytest.fixture
def bucket(world):
    return world.new_bucket(**VIDEOS)


def by_name(rows: list[Row]) -> dict[str, Row]:
    found = {row.requirement: row for row in rows}
    assert len(found) == len(rows)
    return found


def check(bucket, **options):
    return by_name(check_account(bucket, **options))


def missing(rows: dict[str, Row]) -> set[str]:
    return {name for name, row in rows.items() if row.state == "MISSING"}


def test_an_account_that_can_begin_has_nothing_missing(world, bucket):
    rows = check(bucket, video_hours=200.0)
    assert missing(rows) == set()
    assert rows["credentials"].found.endswith("of account 123456789012")
    assert rows["bucket"].found == f"s3://{bucket}"
    assert rows["region"].found == "us-east-1, that of the bucket"
    assert "ami-" in rows["image"].found
    assert "ami-" in rows["image, GPU"].found
    assert "2xlarge spot, 2." in rows["cheapest way"].found
    assert "for 200.0 h of video" in rows["cheapest way"].found
    assert "zones" in rows["network"].found
    assert all(len(row.cure.splitlines()) <= 1 for row in rows.values())


def test_it_changes_nothing(world, bucket):
    world.calls.clear()
    check(bucket)
    changing = ("Create", "Put", "Delete", "Run", "Terminate", "Authorize", "Add")
    assert world.calls
    assert [call.name for call in world.calls if call.name.startswith(changing)] == []


def test_classes_are_counted_with_what_is_held_out(world, bucket):
    rows = check(bucket)
    assert rows["videos: ads"].found == "3 files, 0.0 GB"
    assert rows["videos: games"].found == "1 file, 0.0 GB"


def test_one_class_alone_is_missing_another(world):
    rows = check(world.new_bucket(**{"data/ads/a.mp4": b"x"}))
    assert missing(rows) == {"classes"}
    assert "games" in rows["classes"].cure


def test_recordings_with_labels_need_no_classes(world):
    recordings = {"data/recordings/a.ts": b"x", "data/recordings/a.csv": b"x"}
    rows = check(world.new_bucket(**recordings))
    assert "classes" not in rows
    assert rows["videos: recordings"].found.startswith("1 file,")


def test_a_bucket_without_videos_says_how_to_put_them_there(world):
    bucket = world.new_bucket()
    rows = check(bucket)
    assert missing(rows) == {"videos"}
    assert rows["videos"].cure == f"put them there with ./run_training.sh upload {bucket}"
    assert "roles" in rows  # the rest is looked at all the same


def test_a_bucket_that_is_not_there_ends_the_check(world):
    rows = check("no-such-bucket-of-ours")
    assert missing(rows) == {"bucket"}
    assert "aws s3 mb s3://no-such-bucket-of-ours" in rows["bucket"].cure
    assert list(rows) == ["credentials", "bucket"]


def test_no_credentials_end_the_check_with_how_to_get_them(world, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget()
    rows = check("videos")
    forget()
    assert list(rows) == ["credentials"]
    assert missing(rows) == {"credentials"}
    assert "aws configure" in rows["credentials"].cure


def test_public_access_that_is_not_blocked_is_noted_with_the_command(world, bucket):
    assert check(bucket)["public access"].state == "note"
    assert "put-public-access-block" in check(bucket)["public access"].cure
    blocked = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    s3 = world.client("s3")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocked)
    assert check(bucket)["public access"].state == "ok"


def test_another_region_than_the_bucket_s_is_noted(world, bucket):
    rows = check(bucket, region="us-west-2")
    assert rows["region"].state == "note"
    assert "the bucket is in us-east-1" in rows["region"].found
    assert "leave --region out" in rows["region"].cure


def test_a_quota_of_nothing_is_noted_while_another_choice_is_left(world, bucket, monkeypatch):
    monkeypatch.setitem(world.quotas, "L-3819A6DF", 0.0)
    row = check(bucket)["quota, GPU (G, VT) spot"]
    assert row.state == "note"
    assert row.found == "0 vCPUs, 4 needed for g4dn.xlarge"
    assert "--quota-code L-3819A6DF --desired-value 4" in row.cure


def test_a_quota_of_nothing_is_missing_where_no_choice_is_left(world, bucket, monkeypatch):
    monkeypatch.setitem(world.quotas, "L-3819A6DF", 0.0)
    only = Constraints(instance="g4dn.xlarge", markets=("spot",))
    rows = check(bucket, constraints=only)
    assert missing(rows) == {"quota, GPU (G, VT) spot"}


def test_a_cost_limit_that_nothing_keeps_is_missing(world, bucket):
    rows = check(bucket, constraints=Constraints(max_cost=0.01), video_hours=200.0)
    assert missing(rows) == {"plan"}
    assert "--max-cost 0.01" in rows["plan"].found
    assert rows["plan"].cure.startswith("allow more")


def test_bundled_prices_are_noted(world, bucket):
    world.fail("GetProducts", "denied", count=float("inf"))
    rows = check(bucket)
    assert missing(rows) == set()
    assert rows["price, on demand and disk"].state == "note"
    assert rows["price, spot"].state == "ok"


@pytest.mark.parametrize(
    ("call", "requirement", "permission"),
    [
        ("GetServiceQuota", "quotas", "servicequotas:GetServiceQuota"),
        ("GetBucketLocation", "bucket", "s3:GetBucketLocation"),
        ("DescribeVpcs", "network", "ec2:DescribeVpcs"),
        ("GetRole", "roles", "iam:GetRole"),
        ("GetParameter", "image", "ssm:GetParameter"),
    ],
)
def test_a_refused_look_names_the_permission(world, bucket, call, requirement, permission):
    world.fail(call, "denied", count=float("inf"))
    row = check(bucket)[requirement]
    assert row.state == ("note" if requirement == "quotas" else "MISSING")
    assert permission in row.found + row.cure
    assert row.cure


def test_roles_that_are_not_there_yet_are_made_by_the_first_run(world, bucket):
    row = check(bucket)["roles"]
    assert row.state == "note"
    assert instance_role(bucket) in row.found
    ensure_roles(bucket, REGION, "123456789012", "aws")
    other = world.new_bucket(**VIDEOS)
    row = check(other)["roles"]
    assert row.state == "note"
    role = instance_role(other)
    assert row.found == f"not there yet: role {role}, instance profile {role}"
    found = f"{instance_role(bucket)} and {SCHEDULER_ROLE}"
    assert check(bucket)["roles"] == Row("ok", "roles", found, "")


def test_prepared_recordings_are_counted(world, bucket):
    assert check(bucket)["prepared"].found.startswith("nothing yet")
    world.put(bucket, "store/recordings/1.npy", b"x" * 1000)
    assert f"s3://{bucket}/store" in check(bucket)["prepared"].found


def test_rows_are_printed_with_the_cure_below(capsys):
    print_rows([Row("ok", "bucket", "there", ""), Row("MISSING", "videos", "none", "upload")])
    assert capsys.readouterr().out.splitlines() == [
        "ok       bucket  there",
        "MISSING  videos  none",
        "                 -> upload",
    ]
