"""Snapshot: code and nothing else, the same bytes for the same files."""

import io
import os
import shutil
import subprocess
import tarfile

import pytest

from cloud import snapshot
from cloud.aws import CloudError
from cloud.snapshot import take_snapshot


@pytest.fixture(params=["git", "plain"])
def folder(request, tmp_path):
    """A project with what must not travel, in a clone and without git."""
    for name in (
        "train.py",
        "cloud/aws.py",
        "runs/r/last.ckpt",
        "cache/x.npy",
        "data/ads/a.mp4",
        ".venv/bin/python",
        "cloud/__pycache__/aws.pyc",
        ".env",
        "keys/mine.pem",
    ):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    project = tmp_path / "project"
    (project / "run_training.sh").write_text("#!/bin/sh\n")
    (project / "run_training.sh").chmod(0o755)
    if request.param == "git":
        if not shutil.which("git"):
            pytest.skip("needs git")
        (project / ".gitignore").write_text("runs\n")
        git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=b@c"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "train.py"], check=True)
    return project


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return {member.name: member for member in archive.getmembers()}


def test_code_travels_tracked_or_not_and_nothing_else(folder):
    taken = take_snapshot(folder)
    assert set(taken.names) - {".gitignore"} == {"train.py", "cloud/aws.py", "run_training.sh"}
    assert set(members(taken.content)) == set(taken.names)


def test_what_looks_like_a_secret_stays_and_is_named(folder):
    assert take_snapshot(folder).withheld == (".env", "keys/mine.pem")


def test_same_files_give_the_same_bytes_whenever_and_by_whom(folder):
    first = take_snapshot(folder)
    os.utime(folder / "train.py", (1, 1))
    second = take_snapshot(folder)
    assert (first.content, first.sha256) == (second.content, second.sha256)
    (folder / "train.py").write_text("other")
    assert take_snapshot(folder).sha256 != first.sha256


def test_script_stays_executable_and_owners_are_left_out(folder):
    found = members(take_snapshot(folder).content)
    assert found["run_training.sh"].mode == 0o755
    assert found["train.py"].mode == 0o644
    assert {(member.uid, member.uname, member.mtime) for member in found.values()} == {(0, "", 0)}


def test_deleted_files_and_links_to_elsewhere_are_left_out(folder, tmp_path):
    (tmp_path / "elsewhere.py").write_text("secret")
    (folder / "link.py").symlink_to(tmp_path / "elsewhere.py")
    (folder / "inner.py").symlink_to(folder / "cloud" / "aws.py")
    (folder / "train.py").unlink()
    names = take_snapshot(folder).names
    assert "link.py" not in names
    assert "train.py" not in names
    assert "inner.py" in names


def test_what_is_too_large_to_be_code_is_refused_with_its_name(folder, monkeypatch):
    monkeypatch.setattr(snapshot, "MOST_BYTES", 10_000)
    (folder / "weights.bin").write_bytes(os.urandom(20_000))
    with pytest.raises(CloudError, match=r"weights\.bin is the largest file"):
        take_snapshot(folder)
