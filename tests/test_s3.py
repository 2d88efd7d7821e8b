"""S3: what is listed is what lies there, what arrives is what was sent, errors say what to do."""

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.s3 import (
    PART_BYTES,
    S3ChangedError,
    S3Error,
    S3Folder,
    S3ObjectError,
    delete,
    forget_connection,
    get_file,
    head,
    list_objects,
    put_file,
    read_bytes,
    replace_bytes,
    split_url,
)
from tests.s3_server import one_after, some_after

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bucket(s3) -> str:
    return s3.new_bucket()


@pytest.fixture
def settings(bucket, monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """For variables that boto3 reads once."""
    forget_connection()
    yield monkeypatch
    forget_connection()


def message(error: pytest.ExceptionInfo) -> str:
    """The line that a script would print; one line."""
    said = f"{error.value.filename}: {error.value.strerror}"
    assert "\n" not in said
    return said


def test_importing_needs_no_boto3():
    code = "import sys, cloud.s3, cloud.shared_store; print({'boto3', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# --- addresses


SLOW_IMPORT = """
import sys, threading
from importlib.machinery import PathFinder

inside, later = threading.Event(), threading.Event()

class Slowly:
    def find_spec(self, name, path=None, target=None):
        if name == "s3transfer":
            spec = PathFinder.find_spec(name, path)
            spec.loader.create_module = lambda spec: inside.set() or later.wait(1) or None
            return spec

refused = []

def read():
    try:
        read_bytes("s3://bucket/name")
    except S3Error:
        refused.append(True)

sys.meta_path.insert(0, Slowly())
from cloud.s3 import S3Error, read_bytes
first, second = (threading.Thread(target=read) for _ in range(2))
first.start()
inside.wait()
second.start()
first.join()
second.join()
print(len(refused))
"""


def test_threads_that_import_boto3_at_once_are_no_deadlock():
    """It was one where the second came while the first found what boto3 needs."""
    env = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    run = [sys.executable, "-c", SLOW_IMPORT]
    done = subprocess.run(run, env=env, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_addresses_are_split_at_the_bucket():
    assert split_url("s3://my-bucket/a/b c#?.mp4") == ("my-bucket", "a/b c#?.mp4")
    assert split_url("s3://my-bucket") == ("my-bucket", "")
    assert split_url("s3://my-bucket/") == ("my-bucket", "")


@pytest.mark.parametrize("url", ["s3:/b/x", "s3://", "s3://ab", "s3://Big/x", "b/x", "https://b/x"])
def test_other_addresses_are_refused_in_one_line(url):
    with pytest.raises(S3Error, match=r"write s3://bucket/prefix") as error:
        S3Folder(url)
    assert message(error).startswith(f"{url.rstrip('/')}: ")


# --- listing


def test_names_are_sorted_and_hidden_ones_left_out(s3, bucket):
    shown = ["ads/b.mp4", "ads/spots/a b+ü%.mp4", "games/a.mp4"]
    odd = [".hidden/x.mp4", "ads/.x.mp4", "ads/../x.mp4", "ads//x.mp4", "/x.mp4"]
    s3.put(bucket, **{f"data/{name}": b"x" for name in shown + odd}, **{"database/x.mp4": b"x"})
    for url in (f"s3://{bucket}/data", f"s3://{bucket}/data/"):
        assert S3Folder(url).list_files() == shown


def test_whole_bucket_is_a_folder_too(s3, bucket):
    s3.put(bucket, **{"ads/a.mp4": b"x"})
    folder = S3Folder(f"s3://{bucket}")
    assert folder.list_files() == ["ads/a.mp4"]
    assert folder.read_bytes("ads/a.mp4") == b"x"


def test_empty_folder_is_named_and_the_marker_of_a_full_one_is_not(s3, bucket):
    s3.put(bucket, **{"d/ads/": b"", "d/ads/a/x.mp4": b"x", "d/games/": b"", "d/": b""})
    assert S3Folder(f"s3://{bucket}/d").list_files() == ["ads/a/x.mp4", "games/"]


def test_all_pages_of_a_long_listing_are_read(s3, bucket):
    names = [f"{k:04d}.mp4" for k in range(1100)]
    s3.put(bucket, **{f"many/{name}": b"x" for name in names})
    s3.requests.clear()
    assert S3Folder(f"s3://{bucket}/many").list_files() == names
    assert s3.count("GET", "list-type=2") == 2


# --- stamps and downloads


def test_stamp_changes_with_the_content_and_costs_no_request_after_a_listing(s3, bucket):
    s3.put(bucket, **{"d/a.mp4": b"old"})
    folder = S3Folder(f"s3://{bucket}/d")
    folder.list_files()
    s3.requests.clear()
    old = folder.stamp("a.mp4")
    assert s3.requests == []
    assert old == S3Folder(f"s3://{bucket}/d").stamp("a.mp4")  # by a request of its own
    s3.put(bucket, **{"d/a.mp4": b"new"})
    assert S3Folder(f"s3://{bucket}/d").stamp("a.mp4") != old


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, 2 * PART_BYTES + 1])
def test_file_comes_back_as_it_was_sent(s3, bucket, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    put_file(tmp_path / "a", f"s3://{bucket}/d/a")
    S3Folder(f"s3://{bucket}/d").download("a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("size", [1000, 3 * PART_BYTES])
def test_connection_that_breaks_is_tried_again(s3, bucket, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    put_file(tmp_path / "a", f"s3://{bucket}/d/a")
    with s3.faulty(some_after(0, 2, "cut", "GET", "/d/a")):
        S3Folder(f"s3://{bucket}/d").download("a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content


def test_small_object_whose_connection_breaks_is_read_again(s3, bucket):
    s3.put(bucket, **{"d/a.csv": b"0,1,ads\n"})
    with s3.faulty(some_after(0, 2, "cut", "GET", "/d/a.csv")):
        assert S3Folder(f"s3://{bucket}/d").read_bytes("a.csv") == b"0,1,ads\n"


def test_busy_service_is_waited_for(s3, bucket, tmp_path):
    s3.put(bucket, **{"d/a.mp4": b"content"})
    with s3.faulty(some_after(0, 2, "busy", "GET", "/d/a.mp4")):
        S3Folder(f"s3://{bucket}/d").download("a.mp4", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_object_replaced_since_the_listing_is_taken_as_it_is_and_the_stamp_says_so(
    s3, bucket, tmp_path
):
    s3.put(bucket, **{"d/a.mp4": b"old"})
    folder = S3Folder(f"s3://{bucket}/d")
    folder.list_files()
    listed = folder.stamp("a.mp4")
    s3.put(bucket, **{"d/a.mp4": b"newer"})
    folder.download("a.mp4", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert folder.stamp("a.mp4") == S3Folder(f"s3://{bucket}/d").stamp("a.mp4") != listed


def test_object_replaced_while_it_comes_is_never_a_mixture(s3, bucket, tmp_path):
    old, new = b"o" * (3 * PART_BYTES), b"n" * (3 * PART_BYTES)
    s3.put(bucket, **{"d/a.mp4": old})
    replace = one_after(1, lambda: s3.put(bucket, **{"d/a.mp4": new}), "GET", "/d/a.mp4")
    with s3.faulty(replace):
        S3Folder(f"s3://{bucket}/d").download("a.mp4", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == new


def test_object_that_never_rests_is_given_up(s3, bucket, tmp_path):
    s3.put(bucket, **{"d/a.mp4": b"first"})
    changes = iter(range(100))
    change = some_after(
        0, 100, lambda: s3.put(bucket, **{"d/a.mp4": b"%d" % next(changes)}), "GET", "/d/a.mp4"
    )
    with s3.faulty(change), pytest.raises(S3ObjectError, match="again and again") as error:
        S3Folder(f"s3://{bucket}/d").download("a.mp4", tmp_path / "a")
    assert error.value.filename == f"s3://{bucket}/d/a.mp4"
    assert os.listdir(tmp_path) == []


def test_progress_adds_up_to_the_size_whatever_breaks(s3, bucket, tmp_path):
    url, size = f"s3://{bucket}/a", 3 * PART_BYTES
    (tmp_path / "a").write_bytes(bytes(size))
    sent, came = [], []
    put_file(tmp_path / "a", url, sent.append)
    with s3.faulty(some_after(1, 1, "cut", "GET", "/a")):
        get_file(head(url), tmp_path / "b", came.append)
    assert (sum(sent), sum(came)) == (size, size)


@pytest.mark.parametrize("size", [1000, 3 * PART_BYTES])
def test_what_progress_raises_ends_a_download(s3, bucket, tmp_path, size):
    s3.put(bucket, **{"d/a.mp4": bytes(size)})

    def stop(_: int) -> None:
        raise InterruptedError("enough")

    s3.requests.clear()
    with pytest.raises(InterruptedError, match="enough"):
        S3Folder(f"s3://{bucket}/d").download("a.mp4", tmp_path / "a", stop)
    assert os.listdir(tmp_path) == []


def test_folder_can_be_handed_to_another_process(s3, bucket):
    s3.put(bucket, **{"d/a.mp4": b"content"})
    folder = S3Folder(f"s3://{bucket}/d")
    folder.list_files()
    program = (
        "import pickle, sys\n"
        "print(pickle.load(sys.stdin.buffer).read_bytes('a.mp4').decode(), end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(folder), cwd=ROOT, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"content", b"")


# --- small objects and deleting


def test_small_object_is_replaced_only_by_who_knows_it(s3, bucket):
    url = f"s3://{bucket}/manifest.json"
    replace_bytes(url, b"1", None)
    with pytest.raises(S3ChangedError):
        replace_bytes(url, b"2", None)
    content, etag = read_bytes(url)
    replace_bytes(url, b"3", etag)
    with pytest.raises(S3ChangedError):
        replace_bytes(url, b"4", etag)
    assert (content, read_bytes(url)[0]) == (b"1", b"3")


def test_objects_are_deleted_in_one_request(s3, bucket):
    s3.put(bucket, **{f"d/{k}": b"x" for k in range(3)})
    items = list(list_objects(f"s3://{bucket}/d"))
    s3.requests.clear()
    delete(items[:2])
    assert len(s3.requests) == 1
    assert [item.url for item in list_objects(f"s3://{bucket}/d")] == [f"s3://{bucket}/d/2"]
    delete([])
    assert len(s3.requests) == 2


def test_object_that_may_not_be_deleted_is_said(s3, bucket):
    s3.put(bucket, **{"d/a": b"x"})
    items = list(list_objects(f"s3://{bucket}/d"))
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:DeleteObject",
                "Resource": f"arn:aws:s3:::{bucket}/*",
            }
        ],
    }
    s3.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    with pytest.raises(S3Error, match=f"s3:DeleteObject on arn:aws:s3:::{bucket}/d/a"):
        delete(items)
    assert list(list_objects(f"s3://{bucket}/d")) == items


# --- errors


def test_missing_bucket_is_said(s3):
    with pytest.raises(S3Error, match=r"no bucket not-there.*aws s3 mb") as error:
        S3Folder("s3://not-there/data").list_files()
    assert message(error).startswith("s3://not-there/data: ")
    assert not isinstance(error.value, FileNotFoundError)  # which would be one file's mistake


def test_prefix_without_objects_is_said(s3, bucket):
    s3.put(bucket, **{"other/a.mp4": b"x"})
    with pytest.raises(S3Error, match=r"holds no object.*aws s3 sync") as error:
        S3Folder(f"s3://{bucket}/data").list_files()
    assert f"s3://{bucket}/data/" in message(error)


def test_object_that_is_gone_is_one_files_mistake(s3, bucket, tmp_path):
    s3.put(bucket, **{"d/a.mp4": b"x"})
    folder = S3Folder(f"s3://{bucket}/d")
    folder.list_files()
    s3.client.delete_object(Bucket=bucket, Key="d/a.mp4")
    for ask in (
        lambda: folder.download("a.mp4", tmp_path / "a"),
        lambda: folder.read_bytes("a.mp4"),
    ):
        with pytest.raises(FileNotFoundError, match="no such object") as error:
            ask()
        assert error.value.errno == errno.ENOENT
        assert error.value.filename == f"s3://{bucket}/d/a.mp4"
    assert os.listdir(tmp_path) == []


def test_archived_object_is_one_files_mistake(s3, bucket, tmp_path):
    s3.client.put_object(Bucket=bucket, Key="d/a.mp4", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(FileNotFoundError, match="restore-object"):
        S3Folder(f"s3://{bucket}/d").download("a.mp4", tmp_path / "a")


@pytest.mark.parametrize(
    ("ask", "method", "action", "resource"),
    [
        (lambda url: S3Folder(url).list_files(), "GET", "s3:ListBucket", ""),
        (lambda url: S3Folder(url).read_bytes("a"), "GET", "s3:GetObject", "/d/a"),
        (lambda url: S3Folder(url).stamp("a"), "HEAD", "s3:GetObject", "/d/a"),
        (lambda url: replace_bytes(f"{url}/a", b"", None), "PUT", "s3:PutObject", "/d/a"),
    ],
)
def test_denied_access_names_the_permission_and_what_it_is_for(
    s3, bucket, ask, method, action, resource
):
    with s3.faulty(one_after(0, "denied", method)), pytest.raises(S3Error) as error:
        ask(f"s3://{bucket}/d")
    assert f"{action} on arn:aws:s3:::{bucket}{resource} to" in message(error)
    assert not isinstance(error.value, FileNotFoundError)


def test_missing_credentials_are_said(s3, bucket, settings):
    settings.delenv("AWS_ACCESS_KEY_ID")
    settings.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(S3Error, match="no AWS credentials.*aws configure") as error:
        S3Folder(f"s3://{bucket}/data").list_files()
    message(error)


def test_unknown_profile_is_said(s3, bucket, settings):
    settings.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(S3Error, match=r"nobody.*AWS_PROFILE"):
        S3Folder(f"s3://{bucket}/data").list_files()


def test_unreachable_service_is_said(s3, bucket, settings):
    settings.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    settings.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(S3Error, match=r"can't be reached.*network and AWS_ENDPOINT_URL") as error:
        S3Folder(f"s3://{bucket}/data").list_files()
    message(error)


def test_endpoint_that_is_no_address_is_said(s3, bucket, settings):
    settings.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(S3Error, match="correct AWS_ENDPOINT_URL"):
        S3Folder(f"s3://{bucket}/data").list_files()


def test_service_that_stays_busy_is_said(s3, bucket, settings):
    settings.setenv("AWS_MAX_ATTEMPTS", "2")
    busy = some_after(0, 100, "busy", "GET")
    with s3.faulty(busy), pytest.raises(S3Error, match=r"too busy \(SlowDown\).*run again later"):
        S3Folder(f"s3://{bucket}/data").list_files()
    assert s3.count("GET") == 2


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "InvalidAccessKeyId", "credentials are refused"),
        (400, "ExpiredToken", "aws sso login"),
        (403, "SignatureDoesNotMatch", "credentials are refused"),
        (403, "RequestTimeTooSkewed", "clock"),
        (501, "NotImplemented", "can't do"),
        (400, "SomethingNew", "SomethingNew and why"),
    ],
)
def test_other_refusals_are_said(s3, bucket, settings, status, code, said):
    settings.setenv("AWS_MAX_ATTEMPTS", "1")
    with (
        s3.faulty(one_after(0, (status, code), "GET")),
        pytest.raises(S3Error, match=said) as error,
    ):
        S3Folder(f"s3://{bucket}/data").list_files()
    message(error)


def test_wrong_region_is_said_where_boto3_can_not_follow(s3, bucket):
    answer = (400, "IllegalLocationConstraintException", {"x-amz-bucket-region": "eu-west-1"})
    with s3.faulty(some_after(0, 9, answer, "PUT")), pytest.raises(S3Error, match="eu-west-1"):
        replace_bytes(f"s3://{bucket}/a", b"", None)


def test_full_disk_stays_a_full_disk(s3, bucket, tmp_path, settings):
    s3.put(bucket, **{"d/a.mp4": b"x" * 1000})
    with pytest.raises(OSError, match="[Nn]o space") as error:
        get_file(head(f"s3://{bucket}/d/a.mp4"), Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC


def test_errors_survive_the_way_between_processes():
    error = S3ObjectError("is gone", "s3://b/k")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.errno, copy.strerror, copy.filename) == (
        S3ObjectError,
        errno.ENOENT,
        "is gone",
        "s3://b/k",
    )
