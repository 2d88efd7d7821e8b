"""Fetch: what arrives is what the run left, once, whole, and nowhere but in its folder."""

import hashlib

import pytest

from cloud.fetch import fetch_run
from cloud.run_record import Latest, RecordError, RunRecord
from cloud.s3 import S3DamagedError, S3Error, write_bytes
from tests.launching import NAME


@pytest.fixture
def record(s3) -> RunRecord:
    return RunRecord(s3.new_bucket(), NAME)


def put(record: RunRecord, attempt: int = 1, **contents: bytes) -> None:
    """A run folder on S3; `__` stands for a slash, `_` for a dot."""
    files = {}
    for name, content in contents.items():
        name = name.replace("__", "/").replace("_", ".")
        sha256 = hashlib.sha256(content).hexdigest()
        write_bytes(f"{record.files_url}/{sha256}/{name}", content)
        files[name] = {"sha256": sha256, "size_bytes": len(content)}
    record.write_latest(Latest(files, attempt, ""))


def test_nothing_there_is_none(record, tmp_path):
    assert fetch_run(record, tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


def test_folder_is_fetched_and_only_what_is_new_comes_again(s3, record, tmp_path):
    put(record, metrics_jsonl=b"one", events__a_txt=b"two", report_html=b"")
    first = fetch_run(record, tmp_path)
    assert (first.files, first.size_bytes) == (3, 6)
    assert (tmp_path / "events" / "a.txt").read_bytes() == b"two"
    assert fetch_run(record, tmp_path).files == 0
    put(record, metrics_jsonl=b"one more", events__a_txt=b"two", report_html=b"")
    assert fetch_run(record, tmp_path).files == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one more"


def test_file_that_was_changed_here_is_put_right(record, tmp_path):
    put(record, a_txt=b"right")
    (tmp_path / "a.txt").write_bytes(b"wrong")
    fetch_run(record, tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"right"


def test_broken_off_fetch_goes_on_at_its_file_and_leaves_no_half(s3, record, tmp_path):
    put(record, a_txt=b"a" * 10, b_txt=b"b" * 10)
    denied = s3.faulty(lambda method, path: "denied" if "b.txt" in path else None)
    with denied, pytest.raises(S3Error, match="access denied"):
        fetch_run(record, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert fetch_run(record, tmp_path).files == 1


def test_damaged_content_is_never_taken(s3, record, tmp_path):
    put(record, a_txt=b"right")
    name = f"{hashlib.sha256(b'right').hexdigest()}/a.txt"
    write_bytes(f"{record.files_url}/{name}", b"wrong")
    with pytest.raises(S3DamagedError, match="damaged"):
        fetch_run(record, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_run_that_goes_on_meanwhile_is_fetched_in_one_version(s3, record, tmp_path):
    put(record, a_txt=b"old")
    old = f"{record.files_url}/{hashlib.sha256(b'old').hexdigest()}/a.txt"
    seen = []

    def replaced(method, path):
        if "a.txt" in path and method == "HEAD" and not seen:
            seen.append(path)

            def change():
                put(record, a_txt=b"new")
                bucket, _, key = old.removeprefix("s3://").partition("/")
                s3.client.delete_object(Bucket=bucket, Key=key)

            return change
        return None

    with s3.faulty(replaced):
        fetch_run(record, tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "x/../../a.txt", ""])
def test_names_that_lead_elsewhere_are_refused(record, tmp_path, name):
    record.write_latest(Latest({name: {"sha256": "0" * 64, "size_bytes": 1}}, 1, ""))
    with pytest.raises(RecordError, match="no file of a run"):
        fetch_run(record, tmp_path)
