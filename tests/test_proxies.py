"""Proxies are what browsers play, and count from the first picture as all readers here do."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.media import draw_texture, draw_time, read_time, write_video
from tests.pages import make_settings, open_page, wait_for
from tests.steady import wait_until
from utils.audio import read_audio
from utils.media import MediaError
from utils.muxing import MuxError
from utils.playback import read_tracks
from utils.proxies import MAX_LINES, write_proxy
from utils.video import probe, read_frames

SECONDS, RATE = 3.0, 16_000
ANY_SIZE = 1 << 40
HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
FILES = {  # how each is written, and what becomes of it
    "a.ts": ({"options": {"g": "25", "bf": "2"}}, "copied"),
    "late.ts": ({"start_seconds": 95_442.0, "audio_delay_seconds": -0.7}, "copied"),  # wraps
    "open.ts": (
        {"options": {"x264-params": "keyint=20:open-gop=1:scenecut=0:bframes=3"}},
        "copied",
    ),
    "a.mkv": ({"start_seconds": 7.3, "audio_delay_seconds": 0.5}, "copied"),
    "silent.mkv": ({"tone_hz": None}, "copied"),
    "a.avi": ({"codec": "mpeg4"}, "encoded anew"),
    "mpeg2.ts": ({"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}, "encoded anew"),
    "hevc.mp4": ({**HEVC, "audio_delay_seconds": 0.5}, "encoded anew"),
    "ten_bits.mp4": ({"pix_fmt": "yuv420p10le"}, "encoded anew"),
}


def pictures_of(path: Path) -> list[float]:
    """What each picture of a grid says of its time."""
    return [read_time(frame) for frame in read_frames(path, 25, (72, 128), mode="exact")]


def sound_of(path: Path) -> np.ndarray:
    return np.concatenate(list(read_audio(path, RATE)))


def onset_seconds(samples: np.ndarray) -> float:
    return float(np.flatnonzero(np.abs(samples) > 0.05)[0]) / RATE


def assert_plays(path: Path) -> None:
    assert read_tracks(path).plays
    assert probe(path).zero_seconds == 0
    with av.open(str(path)) as container:
        start = container.streams.video[0].start_time or 0
    assert start == 0
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a player can start before it has all


@pytest.mark.parametrize("name", FILES)
def test_a_proxy_shows_and_plays_at_the_same_time_as_the_recording(tmp_path, name):
    how, outcome = FILES[name]
    path = write_video(tmp_path / name, seconds=SECONDS, **how)
    target = tmp_path / "proxy.mp4"
    assert write_proxy(path, target, ANY_SIZE).startswith(outcome)
    assert_plays(target)
    np.testing.assert_allclose(pictures_of(target), pictures_of(path), atol=0.002)
    if how.get("tone_hz", 1) is None:
        assert read_tracks(target).sound_codec is None
    else:
        expected = onset_seconds(sound_of(path))
        assert onset_seconds(sound_of(target)) == pytest.approx(expected, abs=0.025)  # a packet


def test_pictures_that_play_are_copied_bit_by_bit(tmp_path):
    path = write_video(tmp_path / "a.mkv", seconds=1)
    write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE)
    copies = []
    for file in (path, tmp_path / "proxy.mp4"):
        with av.open(str(file)) as container:
            copies.append([bytes(p) for p in container.demux(video=0) if p.size])
    assert copies[0] == copies[1]


def test_sound_that_browsers_lack_is_encoded_beside_pictures_that_are_copied(tmp_path):
    made = write_video(tmp_path / "made.mkv", seconds=SECONDS, audio_delay_seconds=0.4)
    path = tmp_path / "a.mkv"
    with av.open(str(made)) as source, av.open(str(path), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("ac3", rate=48000, layout="mono")
        for packet in source.demux():
            if packet.stream.type == "video" and packet.size:
                packet.stream = video
                output.mux(packet)
            elif packet.stream.type == "audio":
                for frame in packet.decode():
                    output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    assert write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE).startswith("pictures copied")
    assert_plays(tmp_path / "proxy.mp4")
    assert read_tracks(tmp_path / "proxy.mp4").sound_codec == "aac"
    expected = onset_seconds(sound_of(path))
    assert onset_seconds(sound_of(tmp_path / "proxy.mp4")) == pytest.approx(expected, abs=0.005)


def test_jumps_of_timestamps_are_closed_as_readers_close_them(tmp_path):
    first = write_video(tmp_path / "1.ts", seconds=2, options={"g": "25"}, start_seconds=5000)
    second = write_video(tmp_path / "2.ts", seconds=2, options={"g": "25"}, start_seconds=70)
    path = tmp_path / "spliced.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE).startswith("encoded")
    found, expected = pictures_of(tmp_path / "proxy.mp4"), pictures_of(path)
    assert len(expected) == pytest.approx(100, abs=2)
    np.testing.assert_allclose(found, expected, atol=0.002)


def test_a_damaged_recording_is_encoded_and_keeps_its_times(tmp_path):
    path = write_video(tmp_path / "a.ts", seconds=6, options={"g": "12", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 376 * 188
    data[middle : middle + 188 * 15] = np.random.default_rng(0).bytes(188 * 15)
    path.write_bytes(data)
    assert write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE).startswith("encoded")
    assert_plays(tmp_path / "proxy.mp4")
    found, expected = pictures_of(tmp_path / "proxy.mp4"), pictures_of(path)
    assert abs(len(found) - len(expected)) <= 1
    count = min(len(found), len(expected))
    same = np.isclose(found[:count], expected[:count], atol=0.002)
    assert same.mean() > 0.9  # damaged pictures say anything
    assert same[-25:].all()


def test_large_pictures_become_small_and_upright(tmp_path):
    path = write_video(
        tmp_path / "a.mp4",
        size=(480, 720),
        rotation_degrees=90,
        seconds=0.4,
        draw=draw_texture,
        **HEVC,
    )
    write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE)
    info = probe(tmp_path / "proxy.mp4")
    assert (info.height, info.width, info.rotation_degrees) == (MAX_LINES, 240, 0)
    [shown, *_] = read_frames(tmp_path / "proxy.mp4", 25, (360, 240), mode="exact")
    [expected, *_] = read_frames(path, 25, (360, 240), mode="exact")
    assert np.abs(shown.astype(int) - expected).mean() < 6


def test_a_picture_that_grows_midway_stays_as_large_as_it_was(tmp_path):
    how = {"codec": "mpeg2video", "options": {"g": "5"}, "draw": draw_time}
    first = write_video(tmp_path / "1.ts", seconds=1, **how)
    second = write_video(tmp_path / "2.ts", seconds=1, size=(144, 256), start_seconds=1, **how)
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    write_proxy(path, tmp_path / "proxy.mp4", ANY_SIZE)
    np.testing.assert_allclose(pictures_of(tmp_path / "proxy.mp4"), pictures_of(path), atol=0.002)


def test_more_than_may_be_copied_is_encoded(tmp_path):
    path = write_video(tmp_path / "a.mkv", seconds=1)
    assert write_proxy(path, tmp_path / "p.mp4", path.stat().st_size).startswith("copied")
    assert write_proxy(path, tmp_path / "p.mp4", path.stat().st_size - 1).startswith("encoded")


def test_progress_grows_to_the_end(tmp_path):
    for name in ("a.ts", "mpeg2.ts"):
        path = write_video(tmp_path / name, seconds=12, **FILES[name][0])
        told = []
        write_proxy(path, tmp_path / "p.mp4", ANY_SIZE, told.append)
        assert len(told) > 2
        assert sorted(told) == told
        assert told[-1] > 0.5


def test_a_proxy_is_there_whole_or_not_at_all(tmp_path):
    (tmp_path / "broken.ts").write_bytes(b"no video" * 1000)
    target = tmp_path / "proxies" / "p.mp4"
    target.parent.mkdir()
    with pytest.raises(MediaError):
        write_proxy(tmp_path / "broken.ts", target, ANY_SIZE)
    path = write_video(tmp_path / "a.avi", codec="mpeg4", seconds=12)

    def stop(part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_proxy(path, target, ANY_SIZE, stop)
    assert list(target.parent.iterdir()) == []
    with pytest.raises(MuxError, match="can't be written"):
        write_proxy(path, tmp_path / "nowhere" / "p.mp4", ANY_SIZE)


# Over HTTP


def make_page(tmp_path: Path, **videos: dict):
    settings = make_settings(tmp_path)
    (settings.data_dir / "recordings").mkdir()
    for name, how in videos.items():
        suffix = how.pop("suffix", ".ts")
        write_video(settings.data_dir / "recordings" / f"{name}{suffix}", **how)
    return open_page(settings)


def ids_of(page) -> dict[str, str]:
    found = page.get("/api/recordings").json()["recordings"]
    return {Path(recording["name"]).stem: recording["id"] for recording in found}


def test_the_page_makes_a_proxy_and_serves_its_ranges(tmp_path):
    with make_page(tmp_path, a={"seconds": 2}) as page:
        base = f"/api/recordings/{ids_of(page)['a']}"
        assert page.get(base).json()["media"]["kind"] == "needs_proxy"
        refused = page.get(f"{base}/proxy")
        assert (refused.status_code, refused.json()["kind"]) == (404, "no_proxy")
        asked = page.post(f"{base}/proxy")
        assert asked.status_code == 202
        job = wait_for(page, asked.json())
        assert (job["state"], job["result"]["how"]) == ("done", "copied"), job
        media = page.get(base).json()["media"]
        assert media == {"kind": "proxy", "url": f"{base}/proxy", "zero_seconds": 0.0}
        whole = page.get(media["url"])
        assert whole.headers["content-type"] == "video/mp4"
        part = page.get(media["url"], headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert part.headers["etag"] == whole.headers["etag"]  # though it was used meanwhile
        again = wait_for(page, page.post(f"{base}/proxy").json())
        assert again["result"]["how"] == "there already"


def test_what_plays_or_can_not_be_read_needs_no_proxy(tmp_path):
    with make_page(tmp_path, a={"suffix": ".mp4"}) as page:
        broken = page.app.state.services.settings.data_dir / "recordings" / "b.ts"
        broken.write_bytes(b"no video")
        page.app.state.services.library.refresh()
        ids = ids_of(page)
        media = page.get(f"/api/recordings/{ids['a']}").json()["media"]
        assert media["kind"] == "direct"
        answers = {name: page.post(f"/api/recordings/{id}/proxy") for name, id in ids.items()}
        kinds = {name: (a.status_code, a.json()["kind"]) for name, a in answers.items()}
        assert kinds == {"a": (409, "plays_directly"), "b": (409, "unreadable")}


def test_a_cancelled_proxy_leaves_nothing(tmp_path):
    how = {"codec": "mpeg2video", "seconds": 60, "size": (144, 256), "fps": 25}
    with make_page(tmp_path, a={**how, "tone_hz": None}) as page:
        job = page.post(f"/api/recordings/{ids_of(page)['a']}/proxy").json()
        folder = page.app.state.services.settings.review_dir / "proxies"
        wait_until(lambda: folder.is_dir() and list(folder.iterdir()), every_seconds=0.005)
        page.delete(f"/api/jobs/{job['id']}")
        assert wait_for(page, job)["state"] == "cancelled"
        assert list(folder.iterdir()) == []


def test_the_longest_unused_proxies_go_and_those_of_what_was_changed(tmp_path):
    with make_page(tmp_path, a={"seconds": 1}, b={"seconds": 1}, c={"seconds": 1}) as page:
        ids = ids_of(page)
        cache = page.app.state.services.proxies._cache

        def make(name: str) -> list[str]:
            job = wait_for(page, page.post(f"/api/recordings/{ids[name]}/proxy").json())
            assert job["state"] == "done", job
            return job["result"]["removed"]

        def there() -> set[str]:
            found = {name: page.get(f"/api/recordings/{id}").json() for name, id in ids.items()}
            return {name for name, said in found.items() if said["media"]["kind"] == "proxy"}

        assert make("a") + make("b") == []
        size = sum(path.stat().st_size for path in cache.folder.iterdir()) // 2
        cache.max_bytes = round(2.5 * size)
        page.get(f"/api/recordings/{ids['a']}/proxy")  # so that b is the longest unused
        [removed] = make("c")
        assert removed.startswith(ids["b"])
        assert there() == {"a", "c"}

        path = page.app.state.services.library.find(ids["a"]).path
        write_video(path, seconds=1.5)
        assert there() == {"c"}
        make("a")
        assert len(list(cache.folder.iterdir())) == 2
