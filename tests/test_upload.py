"""Upload: what aws s3 sync would send is sent, once, and nothing is deleted."""

import os
import shutil
import subprocess

import pytest

from cloud.aws import CloudError
from cloud.s3 import S3Error
from cloud.upload import upload_folder


@pytest.fixture
def folder(tmp_path):
    for name, content in (
        ("data/ads/a.mp4", b"a" * 10),
        ("data/games/b c#ü.mp4", b"b" * 20),
        ("data/README.md", b"ours"),
        ("data/.hidden/x", b"no"),
        ("data/ads/.DS_Store", b"no"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1_700_000_000, 1_700_000_000))
    return tmp_path / "data"


def keys(s3, bucket: str) -> list[str]:
    found = s3.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted(item["Key"] for item in found)


def test_videos_lie_where_training_looks_and_go_once(s3, folder):
    bucket = s3.new_bucket()
    sent = upload_folder(folder, bucket)
    assert (sent.files, sent.size_bytes, sent.unchanged) == (2, 30, 0)
    assert keys(s3, bucket) == ["data/ads/a.mp4", "data/games/b c#ü.mp4"]
    again = upload_folder(folder, bucket)
    assert (again.files, again.unchanged) == (0, 2)


def test_changed_and_newer_files_go_again_and_what_is_only_there_stays(s3, folder):
    bucket = s3.new_bucket()
    upload_folder(folder, bucket)
    s3.put(bucket, **{"data/ads/theirs.mp4": b"x"})
    (folder / "ads" / "a.mp4").write_bytes(b"longer than before")
    future = 4_000_000_000
    os.utime(folder / "games" / "b c#ü.mp4", (future, future))
    assert upload_folder(folder, bucket).files == 2
    assert "data/ads/theirs.mp4" in keys(s3, bucket)


def test_what_aws_s3_sync_put_there_is_not_sent_again(s3, folder):
    if not shutil.which("aws"):
        pytest.skip("needs the AWS CLI")
    bucket = s3.new_bucket()
    command = ["aws", "s3", "sync", str(folder), f"s3://{bucket}/data/", "--exclude", "*/.*"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **s3.environment})
    assert upload_folder(folder, bucket).files == 0


def test_refused_upload_is_said_in_one_line_and_the_next_goes_on(s3, folder):
    bucket = s3.new_bucket()
    with (
        s3.faulty(lambda method, path: "denied" if "b%20c" in path or "b c" in path else None),
        pytest.raises(S3Error, match="s3:PutObject"),
    ):
        upload_folder(folder, bucket)
    upload_folder(folder, bucket)
    assert len(keys(s3, bucket)) == 2


def test_folder_with_nothing_to_send_is_said(s3, tmp_path):
    with pytest.raises(CloudError, match="is no folder"):
        upload_folder(tmp_path / "none", "bucket-name")
    with pytest.raises(CloudError, match="has no file"):
        upload_folder(tmp_path, "bucket-name")
