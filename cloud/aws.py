"""AWS: clients of its services, and what it refuses in words that say what to do."""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Sequence

from cloud.s3 import CREDENTIALS_CURE, lacks_credentials

CONNECT_SECONDS, READ_SECONDS = 10, 30
MAX_ATTEMPTS = 5  # of one request; or AWS_MAX_ATTEMPTS
SETTLE_SECONDS = 90.0  # what was made a moment ago may be unknown for so long

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
BAD_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
PREFIXES = {"service-quotas": "servicequotas"}  # of permissions, where not the service's name


class CloudError(Exception):
    """Something of ours on AWS can't be done; one line that says what was found and the cure."""


class AwsError(CloudError):
    """AWS refused a call, or can't be reached; `code` is its word for why, "" without an answer."""

    def __init__(self, message: str, code: str = ""):
        super().__init__(message)
        self.code = code


@functools.cache
def client(service: str, region: str | None = None, *, only_once: bool = False):
    """A client of one service; its end point is AWS_ENDPOINT_URL where that is set.

    `only_once` never repeats a request by itself: where a refusal for want of capacity is an HTTP
    500, as of run_instances, it would be repeated in silence.
    """
    from botocore.config import Config

    with explained(service, "connect"):
        session = _session()
        attempts = session.get_config_variable("max_attempts") or MAX_ATTEMPTS
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1 if only_once else attempts},
        )
        return session.create_client(service, region_name=region, config=config)


@functools.cache
def _session():
    """One for all clients: what each would read of its own takes a tenth of a second."""
    import botocore.session

    return botocore.session.get_session()


def forget_clients() -> None:
    """Lets the next request look for credentials anew, as after `aws sso login`."""
    client.cache_clear()
    _session.cache_clear()


def call(service: str, operation: str, region: str | None = None, **arguments) -> dict:
    """The answer to one request, for example `call("ec2", "describe_vpcs", region)`.

    Raises AwsError in one line.
    """
    with explained(service, operation):
        return getattr(client(service, region), operation)(**arguments)


def pages(service: str, operation: str, region: str | None, key: str, **arguments) -> list:
    """All that an operation lists under `key`, from all of its pages. Raises AwsError."""
    with explained(service, operation):
        paginator = client(service, region).get_paginator(operation)
        return [item for page in paginator.paginate(**arguments) for item in page.get(key, [])]


@contextlib.contextmanager
def explained(service: str, operation: str) -> Iterator[None]:
    """Turns what botocore raises into an AwsError."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise explain_refusal(error, service) from error
    except (BotoCoreError, ResponseParserError) as error:  # the second is a proxy's page
        raise _explain_failure(error, service, operation) from error


def explain_refusal(error, service: str) -> AwsError:
    """From a ClientError: what was called, what was refused, and what would allow it."""
    answer = error.response.get("Error", {})
    code, said = answer.get("Code", "?"), " ".join(answer.get("Message", "").split())
    name = f"{PREFIXES.get(service, service)}:{error.operation_name}"
    if code in DENIED:
        said = re.sub(r"\s*Encoded authorization failure message:.*", "", said)
        return AwsError(
            f"{name} was refused ({code}: {said}): allow it to the user or role that `aws sts "
            "get-caller-identity` shows; ./run_training.sh aws BUCKET --dry-run prints policies",
            code,
        )
    if code in BAD_CREDENTIALS:
        cure = "run `aws configure` or `aws sso login`, or correct AWS_ACCESS_KEY_ID and so on"
        return AwsError(f"the AWS credentials are refused ({code}): {cure}", code)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    again = ": AWS is busy, run again" if status >= 500 or "Throttl" in code else ""
    return AwsError(f"{name} failed ({code}: {said}){again}", code)


def caller(region: str) -> tuple[str, str, str]:
    """Account, partition, and the last part of the ARN of who asks: a user or a session."""
    arn = call("sts", "get_caller_identity", region)["Arn"]
    _, partition, _, _, account, name = arn.split(":", 5)
    return account, partition, re.sub(r"[^\w.@-]", "-", name.rpartition("/")[2])[:128]


def own_region() -> str:
    """The one that is set for this machine. Raises AwsError."""
    region = _session().get_config_variable("region")
    if not region:
        raise AwsError("no region is set: pass --region us-east-1, or run `aws configure`")
    return region


def bucket_region(bucket: str) -> str:
    """Where the bucket is; work for it is done there, since data that leaves a region costs."""
    try:
        place = call("s3", "get_bucket_location", Bucket=bucket).get("LocationConstraint")
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        raise AwsError(
            f"there is no bucket {bucket}: correct the name, or make it with "
            f"`aws s3 mb s3://{bucket}`",
            error.code,
        ) from error
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(place, place)


def until_known(
    action: Callable[[], dict | None],
    codes: Sequence[str],
    *,
    seconds: float = SETTLE_SECONDS,
    pause_seconds: float = 2.0,
) -> dict | None:
    """What `action` returns once AWS knows what was made a moment ago.

    Tries again after an AwsError with one of these codes, then raises it.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return action()
        except AwsError as error:
            if error.code not in codes or time.monotonic() > end:
                raise
        time.sleep(pause_seconds)


@functools.cache
def _session():
    """One for all clients: each would read the same files."""
    import botocore.session

    return botocore.session.get_session()


def _explain_failure(error: Exception, service: str, operation: str) -> AwsError:
    """From a request that got no answer."""
    from botocore import exceptions as core

    said = " ".join(str(error).split())[:300]
    if isinstance(error, core.NoRegionError):
        return AwsError("no region is set: pass --region us-east-1, or run `aws configure`")
    if lacks_credentials(error):
        return AwsError(f"no AWS credentials ({said}): {CREDENTIALS_CURE}")
    if isinstance(error, (core.HTTPClientError, core.ConnectionError)):
        cure = "check the network and AWS_ENDPOINT_URL, and run again"
        return AwsError(f"{service} can't be reached ({said}): {cure}")
    return AwsError(f"{service} {operation}: {said}")
