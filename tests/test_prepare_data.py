"""prepare_data.py goes on wherever it was ended, and says what it did and what is there."""

import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.preparing import ROOT, files_below, run, start, write_recordings
from tests.steady import wait_until
from utils import preparation
from utils.audio import MfccSpec
from utils.features import FeatureSpec
from utils.processes import WorkerPool
from utils.recordings import find_recordings
from utils.sources import Folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("shelf") / "data", 6)


@pytest.fixture
def data(tmp_path, shelf) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "data"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shelf) -> Path:
    """A data folder that was prepared in one go, with its cache beside it."""
    data = Path(shutil.copytree(shelf, tmp_path_factory.mktemp("undisturbed") / "data"))
    code, out, err = run(data, "--workers", "1")
    assert code == 0, err
    assert "prepared 0.01 h of video in" in out
    return data


def store_of(data: Path) -> Path:
    (folder,) = (data.parent / "cache" / "features").iterdir()
    return folder


def kill_at_random(data: Path, kills: int, seed: int) -> int:
    """Kills so many preparations, each begun again until one gets through; checks every store.

    Returns how many got through.
    """
    expected = None
    draw = random.Random(seed)
    longest, finished = 3.0, 0
    while kills or finished == 0:
        process = start(data, "--workers", "2")
        started = time.monotonic()
        try:
            # The first is not killed: it tells how long one takes, and what the store is.
            wait = None if expected is None or not kills else draw.uniform(0.2, 1.0) * longest
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            workers = psutil.Process(process.pid).children()
            process.kill()
            kills -= 1
            assert psutil.wait_procs(workers, timeout=60)[1] == []
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            longest = time.monotonic() - started if expected is None else longest
            found = files_below(store_of(data))
            finished += expected is not None
            expected = expected or found
            assert found.keys() == expected.keys()
            assert found == expected
            shutil.rmtree(data.parent / "cache")
        else:
            assert process.returncode == -signal.SIGKILL, err
    return finished


def test_killed_preparations_end_in_the_store_of_an_undisturbed_one(data):
    assert kill_at_random(data, kills=4, seed=1) >= 1


@pytest.mark.slow
def test_twenty_kills_over_thirty_recordings(tmp_path):
    data = write_recordings(tmp_path / "data", 30)
    assert kill_at_random(data, kills=20, seed=2) >= 1


def test_two_workers_make_the_store_of_one(data, undisturbed):
    code, _, err = run(data, "--workers", "2")
    assert code == 0, err
    assert files_below(store_of(data)) == files_below(store_of(undisturbed))


@pytest.fixture
def hold_up(tmp_path, monkeypatch):
    """Has preparations that begin wait at their last recording, until it is called."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time, av\n"
        "really_open, held = av.open, os.path.join(os.path.dirname(__file__), 'held')\n"
        "def open(path, *arguments, **options):\n"
        "    while str(path).endswith('005.mp4') and os.path.exists(held):\n"
        "        time.sleep(0.01)\n"
        "    return really_open(path, *arguments, **options)\n"
        "av.open = open\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "held").touch()
    return (tmp_path / "held").unlink


def test_control_c_ends_in_one_line_and_the_next_run_goes_on(data, undisturbed, hold_up):
    # A shell may have started the tests with Ctrl-C ignored, which processes inherit.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start(data, "--workers", "1", preexec_fn=listen)
    wait_until(lambda: list(data.parent.glob("cache/features/*/index-main.jsonl")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    hold_up()
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("stopped; what was prepared is kept")
    assert "Traceback" not in err
    assert run(data)[0] == 0
    assert files_below(store_of(data)) == files_below(store_of(undisturbed))


def test_second_preparer_is_refused_and_the_first_goes_on(data, undisturbed, hold_up):
    first = start(data, "--workers", "1")
    wait_until(lambda: list(data.parent.glob("cache/features/*/index-main.jsonl")))
    code, _, err = run(data)
    hold_up()
    assert code == 1
    assert len(err.splitlines()) == 1
    assert re.match("error: .* is being written by another run: wait for it", err)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert files_below(store_of(data)) == files_below(store_of(undisturbed))


def test_everything_prepared_is_found_in_a_moment(undisturbed):
    before = files_below(undisturbed.parent / "cache")
    code, out, err = run(undisturbed)
    assert code == 0
    assert err == ""  # no bar
    assert "ready       6 recordings, 0.01 h" in out
    assert files_below(undisturbed.parent / "cache") == before


def test_status_tells_prepared_pending_and_rejected_and_decodes_nothing(data):
    bad = data / "ads" / "bad.mp4"
    bad.write_text("no video")
    assert "0 prepared · 7 pending · 0 rejected" in run(data, "--status")[1]
    assert not (data.parent / "cache").exists()
    assert run(data)[0] == 0
    write_recordings(data / "more", 1)
    (data / "more" / "ads" / "000.mp4").rename(data / "ads" / "new.mp4")
    shutil.rmtree(data / "more")
    code, out, _ = run(data, "--status")
    assert code == 0
    assert "6 prepared · 1 pending · 1 rejected" in out
    assert "rejected    ads/bad.mp4: not a video file" in out
    assert "fast frames, 4 a second, 32x48 · 6 recordings" in out
    other = run(data, "--status", "--fps", "8")[1]
    assert "0 prepared · 8 pending · 0 rejected" in other
    assert "none yet for fast frames, 8 a second, 32x48" in other


def test_rejected_recordings_are_said_and_listed(data):
    (data / "ads" / "bad.mp4").write_text("no video")
    code, out, err = run(data)
    assert code == 0
    assert "1 rejected" in out
    assert "set aside   ads/bad.mp4: not a video file" in out
    assert "ads/bad.mp4" in (store_of(data) / "rejected.csv").read_text()
    code, _, err = run(data, "--max-rejected", "0.1")
    assert code == 1
    assert err.startswith("error: 1 of 7 recordings can't be used")
    assert len(err.splitlines()) == 1


def test_damage_is_named_and_mended_by_the_next_run(data, undisturbed):
    assert run(data)[0] == 0
    shard = store_of(data) / "frames-main-00000.npy"
    with open(shard, "r+b") as file:
        file.seek(-1, os.SEEK_END)  # in the last recording
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    code, out, _ = run(data, "--verify")
    assert code == 1
    assert "damaged     games/005.mp4: frames-main-00000.npy holds other bytes" in out
    assert "1 of 6 recordings were damaged" in out
    assert "5 prepared · 1 pending" in run(data, "--status")[1]
    assert run(data)[0] == 0
    code, out, _ = run(data, "--verify")
    assert code == 0
    assert "all 6 recordings" in out
    assert files_below(store_of(data)) == files_below(store_of(undisturbed))


def test_prune_says_what_goes_asks_and_keeps_the_rest(data):
    assert run(data)[0] == 0
    assert run(data, "--fps", "8")[0] == 0
    (data / "ads" / "000.mp4").unlink()
    (data / "ads" / "002.mp4").rename(data / "ads" / "renamed.mp4")
    code, _, err = run(data, "--prune", "--yes")
    assert code == 1
    assert "1 recordings of" in err
    assert "may be renamed ones" in err
    assert run(data)[0] == 0
    code, out, err = run(data, "--prune")
    assert code == 1
    assert re.search(r": 1 recordings that are not in .*, 0.00 GB", out)
    assert "all of it (fast frames, 8 a second, 32x48)" in out
    assert err == "error: nobody is there to ask: add --yes to remove that\n"
    assert len(list((data.parent / "cache" / "features").iterdir())) == 2
    assert run(data, "--prune", "--yes")[0] == 0
    assert "5 prepared · 0 pending" in run(data, "--status")[1]
    assert "all 5 recordings" in run(data, "--verify")[1]
    assert len(list((data.parent / "cache" / "features").iterdir())) == 1
    assert "nothing to remove" in run(data, "--prune")[1]


def test_constants_come_from_the_script_and_flags_go_over_them(data, tmp_path):
    text = (ROOT / "train.py").read_text()
    script = tmp_path / "mine.py"
    script.write_text(re.sub("(?m)^FPS = .*", "FPS = 5", text))
    code, out, _ = run(data, "--script", script, "--status")
    assert "none yet for exact frames, 4 a second, 32x48" in out
    bare = [sys.executable, ROOT / "prepare_data.py", data, "--script", script, "--status"]
    said = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "none yet for exact frames, 5 a second, 112x112" in said


def test_constants_of_the_pipeline_are_those_it_hands_to_its_training(data, tmp_path):
    text = (ROOT / "run_pipeline.py").read_text()
    flags = '"--model lrcn --fps 3 --frame-size 48,64"'
    script = tmp_path / "run_pipeline.py"
    script.write_text(re.sub("(?m)^TRAIN_FLAGS = .*", f"TRAIN_FLAGS = {flags}", text))
    (tmp_path / "cost_optimized_train.py").symlink_to(ROOT / "cost_optimized_train.py")
    command = [sys.executable, ROOT / "prepare_data.py", data, "--script", script, "--status"]
    for more, expected in (([], "3 a second, 48x64"), (["--fps", "2"], "2 a second, 48x64")):
        said = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path)
        assert f"none yet for fast frames, {expected}" in said.stdout, said.stderr


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--frame", "fast"], "unknown option --frame: did you mean --frames"),
        (["--frames", "fats"], "--frames is one of fast, exact, keyframes, opencv, not 'fats'"),
        (["--script", "gone.py"], "gone.py can't be read as a training script"),
        (["--price", "cheap"], "argument --price: invalid float value"),
        (["--status", "--verify"], "not allowed with argument"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(data, flags, error):
    code, out, err = run(data, *flags)
    assert code == 1
    assert out == ""
    assert error in err
    assert len(err.splitlines()) == 1


def test_source_without_a_video_is_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    code, _, err = run(tmp_path / "data")
    assert code == 1
    assert "has no video" in err
    code, _, err = run(tmp_path / "gone")
    assert code == 1
    assert "is not a folder" in err


def test_help_teaches_by_examples_without_the_slow_libraries():
    code = (
        "import sys; sys.argv = ['prepare_data.py', '--help']\n"
        "import prepare_data\n"
        "try: prepare_data.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'cv2', 'sklearn', 'boto3', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for word in ("s3://", "--verify", "--prune", "--status", "--price", "rejected.csv"):
        assert word in done.stdout


def test_file_that_hangs_or_crashes_its_decoder_costs_only_itself(data, monkeypatch, tmp_path):
    """With real processes, in which libav aborts on one file and never ends on another."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, av\n"
        "really_open = av.open\n"
        "def open(path, *arguments, **options):\n"
        "    if path.endswith('000.mp4'):\n"
        "        os.abort()\n"
        "    while path.endswith('001.mp4'):\n"
        "        pass\n"
        "    return really_open(path, *arguments, **options)\n"
        "av.open = open\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    quick = functools.partial(WorkerPool, stall_seconds=5)
    monkeypatch.setattr(preparation, "WorkerPool", quick)
    spec = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())
    prepared = preparation.prepare_recordings(
        find_recordings(Folder(data)),
        Folder(data),
        spec,
        tmp_path / "cache",
        workers=2,
        max_rejected=0.5,
    )
    assert {item.recording.name: item.reason for item in prepared.rejected} == {
        "ads/000.mp4": "the decoder crashed on it (SIGABRT)",
        "games/001.mp4": "decoding made no progress for 5 s",
    }
    assert len(prepared.store) == 4
