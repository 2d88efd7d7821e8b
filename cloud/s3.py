"""S3: objects listed, read, sent and fetched, with errors that say what to do."""

import contextlib
import errno
import functools
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PART_BYTES = 16 << 20  # of a transfer in parts; S3 allows 10,000, so objects of up to 160 GB
CONNECTIONS = 8
CONNECT_SECONDS, READ_SECONDS = 10, 60
MAX_ATTEMPTS = 8  # of one request, with waits of up to 20 s: about a minute; or AWS_MAX_ATTEMPTS
READ_ATTEMPTS = 5  # of a content that breaks off
UPDATE_ATTEMPTS = 20  # of a change that others are faster with

_IMPORTING = threading.Lock()

OTHER_NAMES = {"aws_access_key_id": "ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_KEY"}

ACTIONS = {  # where the permission is not called as the request is
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
}
BAD_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
WRONG_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
BUSY = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
MISSING = {"NoSuchKey", "404", "NotFound"}
CREDENTIALS_CURE = "run `aws configure` or `aws sso login`, or set AWS_PROFILE"
DAMAGED = "arrives damaged again and again: check the network and its proxies"


class S3Error(OSError):
    """S3 can't do what was asked; `filename` is the s3:// address, `strerror` has the cure."""

    number = errno.EIO

    def __init__(self, message: str, url: str):
        super().__init__(self.number, message, url)

    def __reduce__(self):
        return type(self), (self.strerror, self.filename)


class S3ObjectError(S3Error, FileNotFoundError):
    """This one object can't be had: it is gone, archived, or was replaced again and again."""

    number = errno.ENOENT


class S3ChangedError(S3Error):
    """The object is no longer the one that was asked for."""


class S3DamagedError(S3Error):
    """The bytes that arrived are not those that were sent."""


@dataclass(frozen=True)
class S3Object:
    """An object as a listing shows it."""

    url: str
    size_bytes: int
    etag: str  # differs for other contents; with its quotes, as S3 gives and takes it
    modified_seconds: float  # since 1970


class S3Folder:
    """The objects below `s3://bucket/prefix`, by the rest of their keys."""

    is_remote = True

    def __init__(self, url: str):
        self.name = url.rstrip("/")
        split_url(self.name)
        self._objects: dict[str, S3Object] = {}

    def list_files(self) -> list[str]:
        """All names, sorted; hidden ones, and those that no folder could hold, are left out.

        The marker of an empty folder is a name that ends in a slash. Raises S3Error where there is
        no object at all.
        """
        found = {item.url.removeprefix(f"{self.name}/"): item for item in list_objects(self.name)}
        if not found:
            raise S3Error(
                "holds no object: correct the address, or put recordings there, for example with "
                f"`aws s3 sync data/ {self.name}/`",
                self.name,
            )
        self._objects = {name: item for name, item in found.items() if _is_file_name(name)}
        parents = {name.rpartition("/")[0] for name in self._objects}
        markers = {name for name in found if name.endswith("/") and _is_file_name(name[:-1])}
        empty = {m for m in markers if not any(f"{p}/".startswith(m) for p in parents)}
        return sorted(self._objects.keys() | empty)

    def read_bytes(self, name: str) -> bytes:
        """The content of a small object. Raises S3ObjectError where it is gone."""
        return read_bytes(self.place(name))[0]

    def place(self, name: str) -> str:
        """The address of an object."""
        return f"{self.name}/{name}"

    def stamp(self, name: str) -> list[int | str]:
        """Size and ETag: as listed, or as last downloaded, so mostly without a request."""
        if name not in self._objects:
            self._objects[name] = head(self.place(name))
        return [self._objects[name].size_bytes, self._objects[name].etag]

    def size_bytes(self, name: str) -> int:
        return self.stamp(name)[0]

    def download(
        self, name: str, path: Path, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        """Writes the object to `path`, in parallel parts that are all of one version of it.

        `on_bytes` is called often, from several threads; what it raises ends the download.
        One that was replaced since it was listed is taken as it is now, and `stamp` says so.
        Raises S3ObjectError where it can't be had.
        """
        self.stamp(name)
        for _ in range(3):
            try:
                get_file(self._objects[name], path, on_bytes)
                return
            except S3ChangedError:
                self._objects[name] = head(self.place(name))
        raise S3ObjectError(
            "is replaced again and again: run again when that is over", self.place(name)
        )


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; the key may be empty. Raises S3Error."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url, re.DOTALL)
    if not match:
        raise S3Error(
            "is not an S3 address: write s3://bucket/prefix, the bucket with 3 to 63 lower-case "
            "letters, digits, dots and hyphens",
            url,
        )
    return match[1], match[2] or ""


def list_objects(url: str) -> Iterator[S3Object]:
    """All objects below the folder `url`, at any depth, in the order of their keys."""
    bucket, prefix = split_url(url)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    with _explained(url):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                yield S3Object(
                    f"s3://{bucket}/{item['Key']}",
                    item["Size"],
                    item["ETag"],
                    item["LastModified"].timestamp(),
                )


def head(url: str) -> S3Object:
    """What S3 knows of one object, without its content."""
    bucket, key = split_url(url)
    with _explained(url):
        answer = _client().head_object(Bucket=bucket, Key=key)
    size, etag = answer["ContentLength"], answer["ETag"]
    return S3Object(url, size, etag, answer["LastModified"].timestamp())


def read_bytes(url: str) -> tuple[bytes, str]:
    """Content and ETag of a small object."""
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    bucket, key = split_url(url)
    with _explained(url):
        for attempts_left in reversed(range(READ_ATTEMPTS)):
            answer = _client().get_object(Bucket=bucket, Key=key)
            try:
                return answer["Body"].read(), answer["ETag"]
            except (
                IncompleteReadError,
                ResponseStreamingError,
            ):  # boto3 tries only the start again
                if not attempts_left:
                    raise


def write_bytes(url: str, content: bytes) -> None:
    """Writes a small object, whatever was there."""
    bucket, key = split_url(url)
    with _explained(url):
        _client().put_object(Bucket=bucket, Key=key, Body=content)


def replace_bytes(url: str, content: bytes, etag: str | None) -> str:
    """Writes a small object where it still has this ETag, or where, with None, there is none.

    Returns the new ETag. Raises S3ChangedError where somebody else was faster.
    """
    bucket, key = split_url(url)
    condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
    with _explained(url):
        return _client().put_object(Bucket=bucket, Key=key, Body=content, **condition)["ETag"]


def read_json(url: str) -> tuple[dict, str | None]:
    """A JSON object and its ETag; ({}, None) where there is none."""
    try:
        content, etag = read_bytes(url)
    except S3ObjectError:
        return {}, None
    try:
        found = json.loads(content)
        if isinstance(found, dict):
            return found, etag
    except ValueError:
        pass
    raise S3Error("is not a file of ours: choose another place, or delete this one", url)


def update_json(url: str, change: Callable[[dict], dict]) -> dict:
    """Replaces a JSON object by `change(it)`, which is returned; nobody's change is lost.

    Where somebody else was faster, `change` is asked again, with what he wrote.
    """
    for attempt in range(UPDATE_ATTEMPTS):
        old, etag = read_json(url)
        new = change(old)
        if new == old:
            return new
        try:
            replace_bytes(url, json.dumps(new, indent=1, sort_keys=True).encode(), etag)
            return new
        except S3ChangedError:
            time.sleep(random.random() * min(0.1 * 2**attempt, 2))
    raise S3Error("is written by too many machines at once: run again", url)


def get_file(item: S3Object, path: Path, on_bytes: Callable[[int], None] | None = None) -> None:
    """Writes the content of `item`, in this very version, to `path`, in parallel parts.

    `on_bytes` is told of progress, from several threads, with negative numbers for what must come
    again. Raises S3ChangedError where the object was replaced.
    """
    bucket, key = split_url(item.url)
    for attempts_left in reversed(range(READ_ATTEMPTS)):
        watcher = _Watcher(on_bytes, item)
        try:
            # In one part at least: s3transfer asks for a version in requests of parts alone.
            with _explained(item.url), _transfers(smallest_in_parts=1) as transfers:
                transfers.download(bucket, key, str(path), subscribers=[watcher]).result()
            break
        except S3DamagedError:
            watcher.start_again()
            if not attempts_left:
                raise
    if path.stat().st_size != item.size_bytes:
        raise S3ChangedError(
            f"came with {path.stat().st_size} bytes, not {item.size_bytes}", item.url
        )


def put_file(path: Path, url: str, on_bytes: Callable[[int], None] | None = None) -> None:
    """Sends a file, in parallel parts; the object appears when all have arrived."""
    put_files({path: url}, on_bytes)


def put_files(urls: dict[Path, str], on_bytes: Callable[[int], None] | None = None) -> None:
    """Sends files, several at the same time, to the addresses given with them.

    Where one can't be sent, those that are not there yet are given up, and S3Error is raised.
    """
    if not urls:
        return
    some_url = next(iter(urls.values()))
    with _explained(some_url), _transfers(smallest_in_parts=PART_BYTES) as transfers:
        sent = {
            url: transfers.upload(str(path), *split_url(url), subscribers=[_Watcher(on_bytes)])
            for path, url in urls.items()
        }
        for url, future in sent.items():
            with _explained(url):
                future.result()


def delete(items: list[S3Object]) -> None:
    """Deletes objects of one bucket."""
    from botocore.exceptions import ClientError

    for start in range(0, len(items), 1000):  # the most that one request takes
        some = {split_url(item.url)[1]: item.url for item in items[start : start + 1000]}
        bucket = split_url(items[start].url)[0]
        keys = {"Objects": [{"Key": key} for key in some], "Quiet": True}
        with _explained(items[start].url):
            answer = _client().delete_objects(Bucket=bucket, Delete=keys)
        for error in answer.get("Errors", []):  # of one key, in an answer that is itself a success
            with _explained(some[error["Key"]]):
                raise ClientError({"Error": error}, "DeleteObjects")


@dataclass
class _Watcher:
    """What s3transfer calls while it works."""

    on_bytes: Callable[[int], None] | None
    expected: S3Object | None = None
    counted: int = 0

    def on_queued(self, future, **_) -> None:
        if self.expected:  # asks for nothing else, and saves a request
            future.meta.provide_transfer_size(self.expected.size_bytes)
            future.meta.provide_object_etag(self.expected.etag)

    def on_progress(self, bytes_transferred: int, **_) -> None:
        self.counted += bytes_transferred
        if self.on_bytes:
            self.on_bytes(bytes_transferred)

    def start_again(self) -> None:
        self.on_progress(-self.counted)


def lacks_credentials(error: Exception) -> bool:
    """Whether boto3 raised this because it found no credentials that it can use."""
    from botocore import exceptions as core

    kinds = (
        core.NoCredentialsError,
        core.PartialCredentialsError,
        core.CredentialRetrievalError,
        core.TokenRetrievalError,
        core.SSOError,
        core.ProfileNotFound,
        core.ConfigParseError,
    )
    return isinstance(error, kinds)


def forget_connection() -> None:
    """Lets the next request look for credentials and settings anew."""
    _client.cache_clear()


def _import_boto3() -> None:
    """Imports it in one thread at a time: its modules import each other in a circle, and where two
    threads enter that at two places, Python breaks the deadlock by an error."""
    with _IMPORTING:
        import boto3.s3.transfer  # noqa: F401


@functools.cache
def _client():
    """One for all threads; it asks for credentials as boto3 does, and renews them.

    OTHER_NAMES of variables are taken where the usual ones are not set.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    attempts = session.get_config_variable("max_attempts") or MAX_ATTEMPTS
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=4 * CONNECTIONS,
        tcp_keepalive=True,
    )
    keys = {}
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        keys = {name: os.environ.get(variable) for name, variable in OTHER_NAMES.items()}
    keys = keys if all(keys.values()) else {}
    return boto3.Session(botocore_session=session, **keys).client("s3", config=config)


def _transfers(smallest_in_parts: int):
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    config = TransferConfig(
        multipart_threshold=smallest_in_parts,
        multipart_chunksize=PART_BYTES,
        max_concurrency=CONNECTIONS,
        num_download_attempts=READ_ATTEMPTS,
        preferred_transfer_client="classic",  # the other one does not take an expected ETag
    )
    return create_transfer_manager(_client(), config)


def _is_file_name(name: str) -> bool:
    """False for hidden names, for `a//b`, and for `../a`, which would leave the folder."""
    return all(part and not part.startswith(".") for part in name.split("/"))


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what boto3 raises into an S3Error of one line with the cure."""
    _import_boto3()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

    try:
        yield
    except ClientError as error:
        raise _explain_answer(error, url) from error
    except S3DownloadFailedError as error:
        raise S3ChangedError("was replaced while it was read", url) from error
    except RetriesExceededError as error:
        raise _explain_failure(error.last_exception, url) from error
    except FlexibleChecksumError as error:
        raise S3DamagedError(DAMAGED, url) from error
    except (BotoCoreError, Boto3Error) as error:
        raise _explain_failure(error, url) from error
    except ValueError as error:  # botocore's own for an endpoint that is no address
        if "endpoint" not in str(error).lower():
            raise
        raise S3Error(f"{error}: correct AWS_ENDPOINT_URL", url) from error


def _explain_answer(error, url: str) -> S3Error:
    """From an answer of S3."""
    code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    bucket, key = split_url(url)
    if code in MISSING and error.operation_name != "ListObjectsV2":
        return S3ObjectError("there is no such object: it was deleted or never put there", url)
    if code in CHANGED:
        return S3ChangedError("was replaced by somebody else meanwhile", url)
    if code in ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"):
        return S3DamagedError(DAMAGED, url)
    if code == "InvalidObjectState":
        return S3ObjectError(
            "is archived (Glacier): restore it with `aws s3api restore-object`, or leave it out",
            url,
        )
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        of_bucket = error.operation_name in ("ListObjectsV2", "HeadBucket")
        action = ACTIONS.get(error.operation_name, f"s3:{error.operation_name}")
        resource = bucket if of_bucket else f"{bucket}/{key}"
        return S3Error(
            f"access denied: allow {action} on arn:aws:s3:::{resource} to the user or role that "
            "`aws sts get-caller-identity` shows",
            url,
        )
    if code in BAD_CREDENTIALS:
        cure = "run `aws configure` or `aws sso login`, or correct AWS_ACCESS_KEY_ID and so on"
        return S3Error(f"the AWS credentials are refused ({code}): {cure}", url)
    if code == "NoSuchBucket" or code in MISSING:
        cure = f"correct the name, or make it with `aws s3 mb s3://{bucket}`"
        return S3Error(f"there is no bucket {bucket}: {cure}", url)
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code in WRONG_REGION or code.startswith(("301", "307", "PermanentRedirect")):
        region = headers.get("x-amz-bucket-region", "the bucket's region")
        return S3Error(f"the bucket is elsewhere: set AWS_DEFAULT_REGION to {region}", url)
    if code == "RequestTimeTooSkewed":
        return S3Error("the clock of this machine is wrong: set it", url)
    if code == "NotImplemented":
        return S3Error(f"this S3 service can't do {error.operation_name} as asked: {said}", url)
    if code in BUSY or code.startswith("5"):
        return S3Error(
            f"S3 is too busy ({code}), and was after several tries: run again later", url
        )
    return S3Error(f"{error.operation_name} failed: {code} {said}".replace("\n", " "), url)


def _explain_failure(error: Exception, url: str) -> S3Error:
    """From a request that got no answer."""
    from botocore import exceptions as core

    said = " ".join(str(error).split())
    if lacks_credentials(error):
        return S3Error(f"no AWS credentials ({said}): {CREDENTIALS_CURE}", url)
    if isinstance(error, core.SSLError):
        cure = "correct AWS_CA_BUNDLE, AWS_ENDPOINT_URL or the clock"
        return S3Error(f"no trusted connection ({said}): {cure}", url)
    if isinstance(error, (core.HTTPClientError, core.ConnectionError, core.IncompleteReadError)):
        cure = "check the network and AWS_ENDPOINT_URL, and run again"
        return S3Error(f"S3 can't be reached ({said}): {cure}", url)
    return S3Error(said, url)
