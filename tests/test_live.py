"""Live: a stream watched to its end, over broken connections, in lines of JSON."""

import io
import json
import os
import shlex
import signal
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.mobilenet_v2 import EMBEDDING_SIZE
from tests.live_server import LiveServer
from tests.media import write_video
from tests.steady import Stopwatch, wait_until
from tests.test_streams import GOP, FakeClock, FastClock, patience  # noqa: F401 - a fixture
from timeline.changes import ChangeSettings
from timeline.classifier import Classifier
from timeline.live import ENDED, GAVE_UP, INTERRUPTED, LiveOptions, StreamWatch, run_live
from utils import streams
from utils.errors import UserError
from utils.features import FeatureSpec
from utils.mfcc import MfccSpec
from utils.streams import StreamBlock, StreamNote
from utils.tracks import SoundRows

SPEC = FeatureSpec(4.0, (36, 64), "fast", False, MfccSpec())
CLASSES = ("ads", "games")


class RedIsAd:
    """Says ads of red pictures and games of green ones, surer the more of a window they are."""

    order_matters, uses_sound = False, True
    num_classes, row_size = 2, EMBEDDING_SIZE

    @property
    def trunk(self):
        return self

    def embed(self, frames):
        found = np.zeros((len(frames), EMBEDDING_SIZE), np.float16)
        found[:, 0] = (frames[..., 0].mean(axis=(1, 2)) > frames[..., 1].mean(axis=(1, 2))) * 2 - 1
        return found

    def encode_sound(self, rows):
        return rows.astype(np.float32)

    def pooled_logits(self, video, has_video, sound, has_sound):
        assert video.shape == (len(has_video), 2 * EMBEDDING_SIZE)
        assert sound.shape == (len(has_sound), 2 * SPEC.mfcc.n_mfcc)
        assert has_video.all()
        return video[:, :1] * np.float32([4.0, -4.0])


def model() -> Classifier:
    red = RedIsAd()
    return Classifier(red, SPEC, CLASSES, clip_seconds=10.0, temperature=1.0)


def watch_of(clock: FakeClock) -> StreamWatch:
    red = model()
    return StreamWatch(red, red.model, ChangeSettings(), clock)


def draw_colours(seconds: float, height: int, width: int) -> np.ndarray:
    """Green, but red from 14 to 32 s."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0 if 14 <= seconds < 32 else 1] = 200
    return picture


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("live") / "r.ts"
    return write_video(path, seconds=44, fps=12, draw=draw_colours, tone_hz=None, options=GOP)


def run(address, options=None, **more) -> tuple[int, list[dict]]:
    out = io.StringIO()
    how, red = options or LiveOptions(speed=1e6), model()
    code = run_live(str(address), red, how, out, network=red.model, **more)
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


def changes_of(lines) -> list[dict]:
    return [line for line in lines if "id" in line and line["event"] != "command"]


def test_a_recording_is_told_as_it_plays_and_ends_with_a_status(recording):
    code, lines = run(recording)
    assert code == ENDED
    assert [(x["event"], x["status"], x["id"], x["shows"]) for x in changes_of(lines)] == [
        ("return_to_game", "confirmed", 1, "games"),
        ("enter_break", "provisional", 2, "games"),
        ("enter_break", "confirmed", 2, "ads"),
        ("return_to_game", "provisional", 3, "games"),
        ("return_to_game", "confirmed", 3, "games"),
    ]
    assert changes_of(lines)[2]["seconds"] == pytest.approx(14, abs=1.5)
    assert changes_of(lines)[4]["seconds"] == pytest.approx(32, abs=1.5)
    assert lines[-1]["event"] == "status"
    assert lines[-1]["seconds"] == pytest.approx(44, abs=0.6)
    assert lines[-1]["label"] == "games"
    assert lines[-1]["probabilities"]["games"] > 0.9
    assert all(line["time"].endswith("Z") for line in lines)


def test_a_live_stream_that_breaks_is_known_in_time(recording):
    speed = 4.0
    with LiveServer(recording, speed=speed, cuts=[(7.0, 9.0), (24.0, 25.0)]) as server:
        options = LiveOptions(status_seconds=5.0, give_up_minutes=0.5)
        code, lines = run(server.url, options, clock=FastClock(speed))
    events = [line["event"] for line in lines]
    assert code == GAVE_UP  # as a web server does not say that a recording is over
    assert events.count("reconnected") >= 2
    assert events[-2:] == ["gave_up", "status"]
    entered = next(
        x for x in changes_of(lines) if x["label"] == "ads" and x["status"] == "confirmed"
    )
    left = next(x for x in changes_of(lines) if x["previous"] == "ads")
    assert entered["latency_seconds"] < 12
    assert left["latency_seconds"] < 7  # at four times the pace of a busy machine
    statuses = [line for line in lines if line["event"] == "status"]
    assert len(statuses) > 5
    assert any(status["fps"] > 2 for status in statuses)
    assert statuses[-1]["reconnects"] == events.count("reconnected")
    assert not statuses[-1]["connected"]
    assert all(status["memory_mb"] > 10 for status in statuses)


def test_the_command_runs_with_what_the_stream_shows_now(recording, tmp_path):
    script = tmp_path / "log.sh"
    script.write_text(f'sleep 0.2; echo "$CHANGE_SHOWS $CHANGE_STATUS" >> {tmp_path}/log\n')
    options = LiveOptions(speed=8.0, on_change=f"sh {shlex.quote(str(script))}")
    _, lines = run(recording, options, clock=FastClock(1.0))
    assert (tmp_path / "log").read_text().splitlines() == [
        "games confirmed",
        "ads confirmed",
        "games provisional",  # a return is not kept waiting
    ]
    assert [line for line in lines if line["event"] == "command"] == []


def test_a_command_that_fails_is_told(recording):
    options = LiveOptions(speed=1e6, on_change=shlex.join([sys.executable, "-c", "exit(4)"]))
    _, lines = run(recording, options)
    told = [line for line in lines if line["event"] == "command"]
    assert told[-1]["status"] == "failed"
    assert told[-1]["reason"] == "its exit code is 4"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, ENDED), (signal.SIGINT, INTERRUPTED)]
)
def test_signals_end_it_with_a_last_status(recording, number, code):
    handler = signal.getsignal(number)

    def end_it() -> None:
        wait_until(lambda: signal.getsignal(number) is not handler)  # else it would end the tests
        time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=end_it, daemon=True).start()
    with Stopwatch() as watch:
        found, lines = run(recording, LiveOptions(), clock=FastClock(1.0))
    assert found == code
    assert watch.seconds < 6
    assert lines[-1]["event"] == "status"
    assert lines[-1]["seconds"] < 30  # of 44
    assert signal.getsignal(number) is handler


def test_stdin_is_watched_to_its_end(recording, monkeypatch):
    with open(recording, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, lines = run("-")
    assert code == ENDED
    assert changes_of(lines)[-1]["event"] == "return_to_game"


def test_nobody_who_reads_ends_it_and_leaves_no_thread(recording):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    how, red = LiveOptions(status_seconds=1.0), model()
    with pytest.raises(BrokenPipeError):
        run_live(str(recording), red, how, Closed(), network=red.model)
    ours = ("stream", "on-change")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name in ours])


def test_mistakes_are_said_before_anything_is_read():
    with pytest.raises(UserError, match="no URL, file or device"):
        run("nowhere.ts")
    with pytest.raises(UserError, match="no program"):
        run("-", LiveOptions(on_change="no-such-program"))


def test_a_machine_that_is_too_slow_says_what_it_left_out(monkeypatch):
    late = [replace(block(k / 2, 1), lag_seconds=60.0) for k in range(200)]
    monkeypatch.setattr(streams, "read_stream", lambda *_, **__: iter(late))
    monkeypatch.setattr(RedIsAd, "embed", slowly(RedIsAd.embed))
    _, lines = run("-")
    told = [line["description"] for line in lines if line["event"] == "damage"]
    assert told
    assert all("this machine is too slow" in text for text in told)
    assert lines[-1]["dropped_seconds"] > 50


def slowly(embed):
    def embed_slowly(self, frames):
        time.sleep(0.01)
        return embed(self, frames)

    return embed_slowly


def block(seconds: float, colour: int, arrived: float | None = None) -> StreamBlock:
    frames = np.zeros((2, 36, 64, 3), np.uint8)
    frames[..., colour] = 200
    sound = (SoundRows(seconds, np.zeros((16, 20), np.float16)),)
    arrived = seconds if arrived is None else arrived
    return StreamBlock(seconds, frames, sound, arrived, lag_seconds=0.0, num_corrupt=0)


def watched(watch, clock, spans, start=0.0) -> list[dict]:
    events, now = [], start
    for colour, seconds in spans:
        for _ in range(round(2 * seconds)):
            clock.now = now + 0.5
            events += [{**x, "now": clock.now} for x in watch.take(block(now, colour, clock.now))]
            now += 0.5
    return events


def test_no_window_reaches_over_a_gap():
    clock = FakeClock()
    watch = watch_of(clock)
    watched(watch, clock, [(1, 30)])
    assert watched(watch, clock, [(0, 1.5)], start=60.0) == []
    assert watch._windows.seconds == 1.5
    said = watch._windows.judge()
    assert said[-1, 0] > 0.99  # full of what came after
    assert 0.5 < said[0, 0] < 0.6  # of which ten seconds are hardly known


def test_latency_is_counted_from_when_the_picture_came():
    clock = FakeClock()
    watch = watch_of(clock)
    events = watched(watch, clock, [(1, 30), (0, 20), (1, 20)])
    confirmed = next(
        event for event in events if event["label"] == "ads" and event["shows"] == "ads"
    )
    expected = confirmed["now"] - confirmed["seconds"]
    assert confirmed["latency_seconds"] == pytest.approx(expected, abs=0.01)
    assert 2 < expected < 12
    left = next(event for event in events if event["previous"] == "ads")
    assert left["latency_seconds"] == pytest.approx(left["now"] - left["seconds"], abs=0.01)
    assert left["latency_seconds"] < 7


def test_memory_does_not_grow_over_days():
    clock = FakeClock()
    watch = watch_of(clock)
    tracemalloc.start()
    sizes = []
    for hour in range(8):
        watched(watch, clock, [(1, 30), (0, 20)], start=hour * 3600.0)
        list(watch.take(StreamNote("reconnected", clock.now, "")))
        watch.status(0.0)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert all(size - sizes[3] < 50_000 for size in sizes[4:]), np.diff(sizes)
