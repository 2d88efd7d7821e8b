"""Recordings on S3 are prepared once, whichever machine does it, and never fill the disk."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import cost_optimized_train
import prepare_data
from cloud.s3 import list_objects, read_json
from tests.s3_server import S3Server, one_after
from tests.steady import wait_until
from tests.trainings import Outcome, flags, run_script
from utils import content_hashes, fetching, sharing

SMALL = flags(frame_size="32,32", fps=2, workers=1)
VIDEOS = ["ads/0.mp4", "ads/1.mp4", "games/0.mp4", "games/1.mp4"]


@dataclass(frozen=True)
class Archive:
    """Videos on S3 that a first machine has prepared."""

    bucket: str
    cache: Path
    outcome: Outcome
    fetched: list[str]
    most_on_disk: int


@pytest.fixture(autouse=True)
def room_for_all(monkeypatch):
    """Else one machine waits for the other where the disk is nearly full: both are one process."""
    monkeypatch.setattr(fetching, "SPARE_BYTES", 0)


@pytest.fixture
def bucket(s3, clips_folder) -> str:
    return new_archive(s3, clips_folder)


@pytest.fixture(scope="module")
def archive(s3_server, clips_folder, tmp_path_factory) -> Iterator[Archive]:
    cache = tmp_path_factory.mktemp("first machine")
    on_disk = []

    def look() -> None:
        # os.walk, unlike rglob, passes over folders that are deleted meanwhile.
        names = [name for _, _, files in os.walk(cache / "fetched") for name in files]
        on_disk.append(sum(name.endswith(".mp4") for name in names))

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        bucket = new_archive(s3_server, clips_folder)
        s3_server.requests.clear()
        with s3_server.faulty(lambda method, path: look if ".mp4" in path else None):
            outcome = prepare(bucket, cache)
        yield Archive(bucket, cache, outcome, fetched_videos(s3_server), max(on_disk))


def new_archive(server: S3Server, clips_folder: Path) -> str:
    """A bucket with VIDEOS below data/, as `aws s3 sync` puts them there."""
    bucket = server.new_bucket()
    server.put(bucket, **{f"data/{name}": (clips_folder / name).read_bytes() for name in VIDEOS})
    return bucket


def prepare(bucket: str, cache: Path, *more: str, source: str = "data") -> Outcome:
    urls = [f"s3://{bucket}/{source}", "--store", f"s3://{bucket}/store"]
    return run_script(prepare_data, *urls, *SMALL, "--cache-dir", cache, *more)


def fetched_videos(s3: S3Server) -> list[str]:
    return sorted(path.rpartition("/data/")[2] for _, path in s3.requests if ".mp4" in path)


def wait_for_one(cache: Path) -> None:
    """Until a recording is in the stores of a cache."""
    wait_until(lambda: rows(cache), what=lambda: "a recording that got ready")


def rows(cache: Path) -> dict[tuple[str, str], bytes]:
    """Everything in the stores of a cache by content key and column."""
    found = {}
    for index in cache.glob("features/*/index-*.jsonl"):
        writer = index.stem.partition("-")[2]
        for line in map(json.loads, index.read_text().splitlines()):
            for column, (number, start, stop) in line["rows"].items():
                shard = np.load(index.parent / f"{column}-{writer}-{number:05d}.npy")
                found[line["key"], column] = shard[start:stop].tobytes()
    return found


def test_each_video_is_fetched_once_and_gone_when_it_is_prepared(archive):
    assert archive.outcome.code == 0, archive.outcome.err
    assert archive.fetched == VIDEOS
    assert archive.most_on_disk <= 3  # the one that is decoded, and those ahead
    assert list((archive.cache / "fetched").iterdir()) == []


def test_second_machine_decodes_nothing_and_fetches_no_video(s3, archive, tmp_path):
    done = prepare(archive.bucket, tmp_path)
    assert done.code == 0, done.err
    assert "ready       4 recordings" in done.out
    assert fetched_videos(s3) == []
    assert rows(tmp_path) == rows(archive.cache)
    assert len(rows(tmp_path)) == len(VIDEOS) * 3  # columns


def test_store_made_from_s3_is_that_of_a_folder(archive, clips_folder, tmp_path):
    for name in VIDEOS:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(clips_folder / name)
    done = run_script(prepare_data, tmp_path / "data", *SMALL, "--cache-dir", tmp_path)
    assert done.code == 0, done.err
    assert rows(tmp_path) == rows(archive.cache)


def test_store_on_s3_is_a_few_objects_and_says_what_it_was_made_from(s3, archive):
    store = f"s3://{archive.bucket}/store"
    names = [item.url.rpartition("/")[2] for item in list_objects(store)]
    kinds = {"fingerprints.json", "frames", "index", "manifest.json", "mfcc", "picture_hashes"}
    assert {name.partition("-")[0] for name in names} == kinds | {"spec.json"}
    assert len(names) == 7
    prints = read_json(f"{store}/fingerprints.json")[0]
    assert list(prints) == [f"s3://{archive.bucket}/data"]
    assert sorted(prints[f"s3://{archive.bucket}/data"]) == VIDEOS


def test_only_new_and_changed_videos_are_fetched_by_one_machine_and_a_bad_one_by_no_other(
    s3, bucket, clips_folder, tmp_path
):
    assert prepare(bucket, tmp_path / "one").code == 0
    s3.put(
        bucket,
        **{
            "data/ads/new.mp4": (clips_folder / "ads/3.mp4").read_bytes(),
            "data/games/0.mp4": (clips_folder / "games/4.mp4").read_bytes(),
            "data/ads/bad.mp4": b"no video",
        },
    )
    s3.requests.clear()
    two = prepare(bucket, tmp_path / "two")
    assert two.code == 0, two.err
    assert fetched_videos(s3) == ["ads/bad.mp4", "ads/new.mp4", "games/0.mp4"]

    s3.requests.clear()
    one = prepare(bucket, tmp_path / "one")
    assert one.code == 0, one.err
    assert fetched_videos(s3) == []
    assert "set aside   ads/bad.mp4" in one.out
    assert rows(tmp_path / "one") == rows(tmp_path / "two")

    again = prepare(bucket, tmp_path / "one", "--retry-rejected")
    assert "set aside   ads/bad.mp4" in again.out
    assert fetched_videos(s3) == ["ads/bad.mp4"]


def test_machines_that_prepare_other_videos_at_once_lose_nothing(
    s3, bucket, clips_folder, tmp_path
):
    """The second begins and ends while the first is at work."""
    others = {f"other/{kind}/3.mp4": clips_folder / kind / "3.mp4" for kind in ("ads", "games")}
    s3.put(bucket, **{key: path.read_bytes() for key, path in others.items()})
    outcomes = []

    def run_other() -> None:
        outcomes.append(prepare(bucket, tmp_path / "other", source="other"))

    with s3.faulty(one_after(3, run_other, "GET", ".mp4")):
        outcomes.append(prepare(bucket, tmp_path / "one"))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert prepare(bucket, tmp_path / "all").code == 0
    assert rows(tmp_path / "all") == {**rows(tmp_path / "one"), **rows(tmp_path / "other")}
    assert len(rows(tmp_path / "all")) == (len(VIDEOS) + 2) * 3


def test_video_that_vanishes_is_set_aside_and_the_others_are_prepared(s3, bucket, tmp_path):
    def vanish() -> None:
        s3.client.delete_object(Bucket=bucket, Key="data/ads/0.mp4")

    with s3.faulty(one_after(0, vanish, "GET", "ads/0.mp4")):
        done = prepare(bucket, tmp_path, "--max-rejected", "0.5")
    assert done.code == 0, done.err
    assert "set aside   ads/0.mp4: can't be read: there is no such object" in done.out
    assert "ready       3 recordings" in done.out


def test_denied_access_stops_in_one_line_and_what_was_done_by_then_is_on_s3(
    s3, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharing, "PUT_SECONDS", 0)
    monkeypatch.setattr(content_hashes, "SAVE_SECONDS", 0)

    def deny() -> str:
        wait_for_one(tmp_path / "lost")
        return "denied"

    with s3.faulty(one_after(3, deny, "GET", ".mp4")):
        lost = prepare(bucket, tmp_path / "lost")
    assert lost.code == 1
    assert f"s3:GetObject on arn:aws:s3:::{bucket}/data/" in lost.last
    assert list((tmp_path / "lost/fetched").iterdir()) == []
    s3.requests.clear()
    assert prepare(bucket, tmp_path / "new").code == 0
    assert 0 < len(fetched_videos(s3)) < len(VIDEOS)


def test_control_c_does_not_wait_for_downloads(s3, bucket, tmp_path, monkeypatch):
    s3.put(bucket, **{"data/ads/big.mp4": bytes(12 << 20)})
    over, waited_for = threading.Event(), []

    def slowly(content: bytes) -> Iterator[bytes]:
        for start in range(0, len(content), 1 << 19):
            yield content[start : start + (1 << 19)]
            if over.wait(1):
                return
        waited_for.append("all of it")

    def press() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "slow"

    monkeypatch.setattr("tests.s3_server._slowly", slowly)
    with s3.faulty(one_after(0, press, "GET", "big.mp4")):
        done = prepare(bucket, tmp_path)
    assert done.code == 130, done.err
    over.set()
    assert waited_for == []
    assert list((tmp_path / "fetched").iterdir()) == []


def test_control_c_puts_what_is_done_by_then(s3, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(content_hashes, "SAVE_SECONDS", 0)

    def stop() -> None:
        wait_for_one(tmp_path / "first")
        os.kill(os.getpid(), signal.SIGINT)

    with s3.faulty(one_after(3, stop, "GET", ".mp4")):
        assert prepare(bucket, tmp_path / "first").code == 130
    s3.requests.clear()
    assert prepare(bucket, tmp_path / "second").code == 0
    assert 0 < len(set(fetched_videos(s3))) < len(VIDEOS)


def test_recordings_of_a_folder_go_to_a_shared_store_too(s3, clips_folder, tmp_path):
    store = f"s3://{s3.new_bucket()}/store"
    folder = [clips_folder, "--store", store, *SMALL]
    one = run_script(prepare_data, *folder, "--cache-dir", tmp_path / "one")
    two = run_script(prepare_data, *folder, "--cache-dir", tmp_path / "two")
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert rows(tmp_path / "one") == rows(tmp_path / "two") != {}
    assert not list((tmp_path / "two").glob("features/*/index-main.jsonl"))  # it decoded nothing
    assert read_json(f"{store}/fingerprints.json") == ({}, None)  # paths mean nothing elsewhere


@pytest.mark.slow
def test_training_reads_recordings_on_s3(s3, clips_folder, small_flags, shared_cache, tmp_path):
    bucket = s3.new_bucket()
    names = sorted(path.relative_to(clips_folder).as_posix() for path in clips_folder.rglob("*.*"))
    s3.put(bucket, **{f"data/{name}": (clips_folder / name).read_bytes() for name in names})
    own = ["--data-dir", f"s3://{bucket}/data", "--runs-dir", tmp_path, "--epochs", 2]
    done = run_script(cost_optimized_train, *small_flags, *own)
    assert done.code == 0, done.err
    assert (tmp_path / "latest/report.html").exists()
    assert fetched_videos(s3) == names
    assert list((shared_cache / "fetched").iterdir()) == []


def test_prefix_without_recordings_is_said_in_one_line(s3, tmp_path):
    done = prepare(s3.new_bucket(), tmp_path)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "holds no object" in done.err
