"""What is fetched lies in a folder of its own, and is gone when it was used."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils import fetching
from utils.fetching import Fetching, Stopped

ROOT = Path(__file__).resolve().parent.parent


class SlowPlace:
    """Files of ten bytes, that take as long as a test likes."""

    name, is_remote = "slow", True

    def __init__(self, meanwhile=lambda: None):
        self.meanwhile = meanwhile

    def size_bytes(self, name: str) -> int:
        return 10

    def download(self, name: str, path: Path, on_bytes=None) -> None:
        path.write_bytes(name.encode()[:10])
        self.meanwhile()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_fetched_files_are_deleted_whatever_ends_their_use(tmp_path, error):
    def use() -> None:
        with Fetching(SlowPlace(), tmp_path).fetch(["ads/a.mp4"]) as folder:
            assert (folder / "ads/a.mp4").read_bytes() == b"ads/a.mp4"
            raise error

    with pytest.raises(error):
        use()
    assert os.listdir(tmp_path) == []


def test_download_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        raise OSError("broken")

    with (
        pytest.raises(OSError, match="broken"),
        Fetching(SlowPlace(fail), tmp_path).fetch(["ads/a.mp4"]),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_fetches_side_by_side_keep_out_of_each_others_way(tmp_path):
    source = Fetching(SlowPlace(), tmp_path)
    with source.fetch(["ads/a.mp4"]) as one, source.fetch(["ads/a.mp4"]) as other:
        assert one != other
        assert (one / "ads/a.mp4").exists()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_fetched_is_deleted_by_the_next(tmp_path):
    code = (
        "import sys\n"
        "from tests.test_fetching import Fetching, SlowPlace\n"
        "with Fetching(SlowPlace(), sys.argv[1]).fetch(['ads/a.mp4']):\n"
        "    print('fetched', flush=True)\n"
        "    input()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"fetched\n"
    left = os.listdir(tmp_path)
    with Fetching(SlowPlace(), tmp_path).fetch([]):
        assert set(left) < set(os.listdir(tmp_path))  # it is still in use
    child.kill()
    child.wait()
    assert os.listdir(tmp_path) == left
    with Fetching(SlowPlace(), tmp_path).fetch([]):
        assert not set(left) & set(os.listdir(tmp_path))
    child.stdin.close()
    child.stdout.close()


def test_many_threads_fetch_and_clean_up_at_once(tmp_path):
    source = Fetching(SlowPlace(), tmp_path)

    def use(_: int) -> bool:
        with source.fetch(["ads/a.mp4", "ads/b.mp4"]) as folder:
            return (folder / "ads/a.mp4").exists() and (folder / "ads/b.mp4").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert os.listdir(tmp_path) == []


# --- room on the disk


def count_videos(folder: Path) -> int:
    return sum(n.endswith(".mp4") for _, _, names in os.walk(folder) for n in names)


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """A function that sets the size of the disk in bytes."""
    size = {"bytes": 0}

    def usage(_):
        return namedtuple("Usage", "free")(size["bytes"] - 10 * count_videos(tmp_path))

    monkeypatch.setattr(fetching.shutil, "disk_usage", usage)
    monkeypatch.setattr(fetching, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(fetching, "SPARE_BYTES", 5)
    return lambda size_bytes: size.update(bytes=size_bytes)


def test_fetch_waits_for_room_until_another_is_done(disk, tmp_path):
    disk(2 * 10 + 4)  # one, and less than another beside it with what is to spare
    source = Fetching(SlowPlace(), tmp_path)
    most, lock = [], threading.Lock()

    def use(_: int) -> None:
        with source.fetch(["ads/a.mp4"]) as folder:
            assert (folder / "ads/a.mp4").exists()
            with lock:
                most.append(count_videos(tmp_path))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(20)))
    assert most == [1] * 20
    most.clear()
    disk(3 * 10 + 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(20)))
    assert max(most) <= 2


def test_room_is_promised_to_what_is_still_coming(disk, tmp_path):
    """Bytes that are not written yet do not show in the free space."""
    disk(2 * 10 + 4)
    waiting = []

    def go_on() -> None:
        waiting.append(count_videos(tmp_path))
        time.sleep(0.05)

    source = Fetching(SlowPlace(go_on), tmp_path)

    def use(_: int) -> None:
        with source.fetch(["ads/a.mp4"]):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert waiting == [1] * 4


def test_file_that_no_disk_holds_is_refused_before_it_is_fetched(disk, tmp_path):
    disk(9)
    with (
        pytest.raises(OSError, match="are to be fetched, and there is room for") as error,
        Fetching(SlowPlace(), tmp_path).fetch(["ads/a.mp4"]),
    ):
        pass
    assert error.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []
    disk(10)
    with Fetching(SlowPlace(), tmp_path).fetch(["ads/a.mp4"]):
        pass


# --- stopping


def test_download_and_wait_for_room_are_ended_from_another_thread(disk, tmp_path):
    disk(2 * 10 + 4)  # room for one
    begun = threading.Event()

    class EndlessPlace(SlowPlace):
        def download(self, name: str, path: Path, on_bytes) -> None:
            begun.set()
            while True:
                on_bytes(1)
                time.sleep(0.01)

    source = Fetching(EndlessPlace(), tmp_path)

    def fetch() -> None:
        with source.fetch(["ads/a.mp4"]):
            pass

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(fetch) for _ in range(2)]
        assert begun.wait(60)
        source.stop()
        for future in futures:
            assert isinstance(future.exception(60), Stopped)
    assert os.listdir(tmp_path) == []
