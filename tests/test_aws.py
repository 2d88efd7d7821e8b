"""AWS: refusals say in one line what was called and what to do; nothing waits for ever."""

import pytest

from cloud.aws import (
    AwsError,
    bucket_region,
    call,
    caller,
    client,
    forget_clients,
    pages,
    until_known,
)
from tests.aws_world import REGION


def refusal(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_refused_permission_is_named_with_where_to_find_the_policy(aws):
    aws.fail("DescribeVpcs", "denied")
    with pytest.raises(AwsError) as error:
        call("ec2", "describe_vpcs", REGION)
    assert refusal(error).startswith("ec2:DescribeVpcs was refused (")
    assert "allow it to the user or role" in refusal(error)
    assert "--dry-run" in refusal(error)


def test_call_that_fails_once_is_repeated_and_only_once_is_not(aws):
    fault = aws.fail("DescribeVpcs", "busy")
    assert call("ec2", "describe_vpcs", REGION)["Vpcs"]
    assert fault.met == 1 or len(aws.called("DescribeVpcs")) == 2
    aws.fail("DescribeSubnets", "busy")
    with pytest.raises(Exception, match="DescribeSubnets|ServiceUnavailable|503"):
        client("ec2", REGION, only_once=True).describe_subnets()
    assert len(aws.called("DescribeSubnets")) == 1


def test_unreachable_aws_has_no_code_and_says_what_to_check(aws, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    with aws.laptop_cut_off(), pytest.raises(AwsError, match="check the network") as error:
        call("ec2", "describe_vpcs", REGION)
    assert error.value.code == ""


def test_missing_credentials_and_region_have_their_cures(aws, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    with pytest.raises(AwsError, match="aws configure"):
        caller(REGION)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    forget_clients()
    with pytest.raises(AwsError, match="pass --region"):
        call("ec2", "describe_vpcs")


def test_who_asks_is_known_by_account_and_name(aws):
    account, partition, owner = caller(REGION)
    assert (len(account), partition) == (12, "aws")
    assert owner


def test_region_is_that_of_the_bucket_and_a_missing_bucket_can_be_made(aws):
    assert bucket_region(aws.new_bucket()) == REGION
    with pytest.raises(AwsError, match="aws s3 mb s3://no-such-bucket-here"):
        bucket_region("no-such-bucket-here")


def test_all_pages_are_read(aws):
    found = pages("ec2", "describe_images", REGION, "Images", MaxResults=5)
    assert len(found) == len(call("ec2", "describe_images", REGION)["Images"])


def test_what_is_unknown_for_a_moment_is_asked_again_and_other_errors_are_not():
    answers = [AwsError("not yet", "New"), AwsError("not yet", "New"), None]

    def action():
        answer = answers.pop(0)
        if answer:
            raise answer
        return {"done": True}

    assert until_known(action, ["New"], pause_seconds=0) == {"done": True}
    answers[:] = [AwsError("no", "Denied")]
    with pytest.raises(AwsError, match="no"):
        until_known(action, ["New"], pause_seconds=0)
    answers[:] = [AwsError("not yet", "New")] * 100
    with pytest.raises(AwsError, match="not yet"):
        until_known(action, ["New"], seconds=0, pause_seconds=0)
