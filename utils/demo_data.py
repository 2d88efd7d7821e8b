"""The demo set: made recordings of ads and of games, to train on where there are no others yet."""

import json
import os
import shutil
import signal
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from utils.demo_ads import Campaign, draw_ad
from utils.demo_drawing import FRAME_SIZE
from utils.demo_games import FRAMES_PER_SECOND, draw_game
from utils.demo_grounds import Venue
from utils.demo_sounds import SAMPLE_RATE, Arena, Music, ad_sound, game_sound
from utils.processes import LightContext

MARKER = "demo_set.json"
RECORDINGS_PER_GROUP = 2
SECONDS = (12, 18)
LEVELS_DECIBELS = (-32.0, -16.0)  # RMS below full scale; both classes get the same set of levels
SILENT_EVERY = 8  # one recording of so many has no sound track

GRASS, TURF, ROYAL, HARD = (56, 128, 60), (34, 92, 66), (52, 62, 140), (40, 86, 150)
WOOD, CLAY, ICE, TEAL = (192, 138, 84), (184, 92, 56), (214, 224, 234), (32, 118, 140)
PAPER, SUN, RED, NIGHT = (240, 240, 240), (246, 190, 50), (206, 44, 44), (26, 30, 60)
ORANGE, NAVY, PLUM, MINT = (240, 130, 40), (28, 44, 110), (130, 50, 120), (110, 190, 150)

# The n-th campaign and the n-th venue share a palette, so that colour does not tell ads from games.
VENUES = {
    "rivals": (Venue("football", GRASS, (46, 112, 54), (RED, PAPER), ("RVL", "DYN")),
               Arena(140, 0.8, speech=0.8)),
    "night_cup": (Venue("football", TURF, NIGHT, (SUN, NAVY), ("NOR", "SUD"), light=0.6,
                        score_at=(184, 8)), Arena(130, 0.7)),
    "hard_court": (Venue("tennis", HARD, (44, 110, 120), (PAPER, ORANGE), ("ADA", "KIM")),
                   Arena(620, 1.0, whistle=False, speech=0.4)),
    "city_hoops": (Venue("basketball", WOOD, (146, 62, 42), (NAVY, PAPER), ("BUL", "HAW")),
                   Arena(200, 2.6, organ=0.35)),
    "red_clay": (Venue("tennis", CLAY, (150, 76, 50), (NAVY, PAPER), ("LEA", "ZOE"),
                       score_at=(8, 157)), Arena(560, 0.9, whistle=False)),
    "ice_palace": (Venue("hockey", ICE, (190, 202, 218), (RED, NAVY), ("ICE", "BRS"),
                         lines=(180, 60, 70)), Arena(900, 1.6, speech=0.7, organ=0.3)),
    "sport_hall": (Venue("handball", TEAL, ORANGE, (PAPER, RED), ("HBC", "TVS"), lines=PAPER),
                   Arena(170, 2.0, speech=0.9)),
    "evening_spike": (Venue("volleyball", ROYAL, PLUM, (SUN, MINT), ("OST", "WEL"), light=0.8,
                            score_at=(101, 8)), Arena(240, 1.0)),
}  # fmt: skip
CAMPAIGNS = {
    "verdo": (Campaign("Verdo", "runs with you", "79.90", "shoe", (GRASS, (46, 112, 54), SUN),
                       (0.9, 1.9), VENUES["rivals"][0]), Music(122, 2, crowd=0.45)),
    "noctua": (Campaign("Noctua", "for the night shift", "2.49", "bottle", (TURF, NIGHT, SUN),
                        venue=VENUES["night_cup"][0]), Music(104, 9, brightness=0.5, speech=0.5)),
    "azura": (Campaign("azura", "your bank. your way.", "0.00 / month", "phone",
                       (HARD, (44, 110, 120), ORANGE), (1.5, 2.8)),
              Music(84, 5, brightness=0.35, drums=0.3, speech=0.8)),
    "cremona": (Campaign("Cremona", "the first cup", "3.49", "cup", (WOOD, (146, 62, 42), PAPER),
                         (0.8, 1.8)), Music(96, 0, drums=0.6)),
    "terrano": (Campaign("Terrano", "built for out there", "from 249/m", "car",
                         (CLAY, (150, 76, 50), NAVY)), Music(128, 7, brightness=0.75)),
    "glacia": (Campaign("GLACIA", "pure. cold. yours.", "0.99", "bottle",
                        (ICE, (150, 176, 206), RED)), Music(116, 4, speech=0.6)),
    "tello": (Campaign("tello", "talk more", "9.99", "phone", (TEAL, ORANGE, PAPER), (0.5, 1.1)),
              Music(132, 10, brightness=0.7, speech=0.7)),
    "violetta": (Campaign("Violetta", "after dark", "59.-", "flacon", (ROYAL, PLUM, SUN),
                          (1.2, 2.4)), Music(76, 3, brightness=0.45, drums=0.4)),
}  # fmt: skip


@dataclass(frozen=True)
class _Recording:
    """One recording to make; without a level it has no sound track."""

    class_name: str
    group: str
    number: int
    seconds: float
    level_decibels: float | None
    seed: tuple[int, ...]


def make_demo_set(
    folder: Path | str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    groups_per_class: int = 8,
) -> None:
    """Writes `folder`/{ads,games}/<group>/*.mp4, whole or not at all: 32 recordings, 8 minutes.

    Frames and samples are the same for the same seed; the bytes depend on the encoder's version.
    Raises FileExistsError if the folder has anything in it.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: choose another folder or delete it first")
    recordings = _plan(seed, groups_per_class)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        for recording in recordings:
            _path(unfinished, recording).parent.mkdir(parents=True, exist_ok=True)
        _make_all(unfinished, recordings, workers, progress)
        marker = {"seed": seed, "recordings": len(recordings)}
        (unfinished / MARKER).write_text(json.dumps(marker) + "\n")
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_demo_set(folder: Path | str) -> bool:
    """Whether `make_demo_set` has written this folder."""
    return (Path(folder) / MARKER).is_file()


def _plan(seed: int, groups_per_class: int) -> list[_Recording]:
    """Returns the recordings to make; both classes get the same lengths, levels and silence."""
    recordings = []
    for class_number, (class_name, groups) in enumerate((("ads", CAMPAIGNS), ("games", VENUES))):
        if not 1 <= groups_per_class <= len(groups):
            raise ValueError(f"groups_per_class is {groups_per_class}: choose 1 to {len(groups)}")
        n = groups_per_class * RECORDINGS_PER_GROUP
        rng = np.random.default_rng((seed, class_number))
        levels = rng.permutation(np.linspace(*LEVELS_DECIBELS, n))
        seconds = rng.permutation(np.linspace(*SECONDS, n))
        silent = set(rng.permutation(n)[: n // SILENT_EVERY].tolist())
        for i in range(n):
            group_number, number = divmod(i, RECORDINGS_PER_GROUP)
            recordings.append(
                _Recording(
                    class_name,
                    list(groups)[group_number],
                    number,
                    round(seconds[i] * FRAMES_PER_SECOND) / FRAMES_PER_SECOND,
                    None if i in silent else float(levels[i]),
                    (seed, class_number, group_number, number),
                )
            )
    return recordings


def _make_all(folder: Path, recordings: list[_Recording], workers: int, progress: bool) -> None:
    with tqdm(total=len(recordings), desc="demo set", unit="rec", disable=not progress) as bar:
        if workers <= 1:
            for recording in recordings:
                _make(folder, recording)
                bar.update()
            return
        with ProcessPoolExecutor(workers, LightContext(), _start_worker) as pool:
            # The longest first, so that none is begun when the other workers have finished.
            queue = sorted(recordings, key=lambda recording: -recording.seconds)
            try:
                for made in as_completed([pool.submit(_make, folder, one) for one in queue]):
                    made.result()
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which cleans up


def _make(folder: Path, recording: _Recording) -> None:
    rng = np.random.default_rng(recording.seed)
    n_frames = round(recording.seconds * FRAMES_PER_SECOND)
    if recording.class_name == "ads":
        campaign, music = CAMPAIGNS[recording.group]
        sound = ad_sound(music, recording.seconds, rng)
        frames = draw_ad(campaign, n_frames, rng)
    else:
        venue, arena = VENUES[recording.group]
        sound = game_sound(arena, recording.seconds, rng)
        frames = draw_game(venue, n_frames, rng)
    if recording.level_decibels is None:
        sound = None
    else:
        sound = sound * np.float32(10 ** (recording.level_decibels / 20))
    _write(_path(folder, recording), frames, sound)


def _path(folder: Path, recording: _Recording) -> Path:
    group = folder / recording.class_name / recording.group
    return group / f"{recording.group}_{recording.number + 1}.mp4"


def _write(path: Path, frames: Iterable[np.ndarray], sound: np.ndarray | None) -> None:
    """Encodes frames (180, 320, 3) RGB as H.264 and mono sound, if any, as AAC."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264",
            rate=FRAMES_PER_SECOND,
            options={"preset": "superfast", "crf": "25", "g": "50"},
        )
        video.height, video.width = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        if sound is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 64_000
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate = SAMPLE_RATE
            samples.time_base = Fraction(1, SAMPLE_RATE)
            samples.pts = 0
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i
            picture.time_base = Fraction(1, FRAMES_PER_SECOND)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound is not None:
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    with path.open("rb") as file:
        os.fsync(file.fileno())
