"""Planted breaks: recordings whose timeline is known, put together from clips.

    python -m benchmarks.planted --data-dir CLIPS/heldout --out FOLDER
    python -m benchmarks.planted --data-dir CLIPS/heldout --out FOLDER --kinds black --suffix .ts

CLIPS holds ads/SOURCE/*.mp4 and games/SOURCE/*.mp4. A recording is game, cut anywhere, with breaks
of several whole spots between; no clip comes twice in it. Its truth lies beside it as .edl and
.json: a break begins with the first picture that is not game, and ends with the first that is.
"""

import argparse
import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from utils.audio import read_audio
from utils.files import write_whole
from utils.labels import BREAK_LABEL, REST_LABEL
from utils.media import Clock, MediaError, opened, packets, video_stream
from utils.recordings import list_videos
from utils.video import moments_of, pictures_on_grid, probe

KINDS = ("hard", "black", "fade", "level", "mixed")
SUFFIXES = (".mp4", ".ts")
FRAME_RATE, SAMPLE_RATE = 25, 48_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
SIZE = (360, 640)
GAME_EVERY_SECONDS = 480.0  # of a broadcast: between two breaks
GAME_SECONDS, BREAK_SECONDS = (30.0, 180.0), (30.0, 120.0)
BLACK_SECONDS, FADE_SECONDS = (0.1, 1.0), (0.5, 1.0)
LEVEL_DECIBELS, LEVEL_LUMA = (6.0, 10.0), (15.0, 35.0)
BLACK_LUMA, WHITE_LUMA = 16, 235
AAC_SAMPLES = 1024  # of a block
SHORTEST_PIECE_SECONDS = 3.0  # no cut leaves less than that of a clip
STARTS_WITH_BREAK, ENDS_WITH_BREAK = 0.2, 0.3  # parts of the recordings
CODING = {  # of libx264; what people record, and what is broadcast
    ".mp4": {"preset": "superfast", "threads": "1", "crf": "23", "g": "250"},
    ".ts": {"preset": "superfast", "threads": "1", "crf": "23", "g": "24", "bf": "2"},
}


@dataclass(frozen=True)
class Material:
    """A clip that recordings can be made of."""

    path: Path
    label: str
    source: str
    num_frames: int  # at FRAME_RATE


@dataclass(frozen=True)
class Piece:
    """[first, first + num_frames) of a clip, and how it follows the piece before it."""

    material: Material
    first: int
    num_frames: int
    join: str = "cut"  # or "black", "fade"
    join_frames: int = 0  # of black before it, or shared with the piece before
    gain_decibels: float = 0.0
    luma_shift: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a planted recording is made of."""

    kind: str
    seed: int
    pieces: tuple[Piece, ...]

    @property
    def num_frames(self) -> int:
        return self.ends[-1]

    def spans(self) -> list[tuple[int, int, str]]:
        """Frames [start, end) of each game and each break in order, without gaps.

        Black belongs to the break, a cross-fade half to either side.
        """
        spans: list[tuple[int, int, str]] = []
        starts = [0, *self.ends[:-1]]
        for index, (piece, start) in enumerate(zip(self.pieces, starts, strict=True)):
            label = piece.material.label
            if spans and spans[-1][2] == label:
                continue
            if index and piece.join == "black" and label == REST_LABEL:
                start += piece.join_frames
            elif piece.join == "fade":
                start -= piece.join_frames // 2
            if spans:
                spans[-1] = (spans[-1][0], start, spans[-1][2])
            spans.append((start, self.num_frames, label))
        return spans

    @property
    def ends(self) -> list[int]:
        """The frame after the last of each piece."""
        ends: list[int] = []
        for piece in self.pieces:
            sign = {"cut": 0, "black": 1, "fade": -1}[piece.join]
            ends.append((ends[-1] if ends else 0) + sign * piece.join_frames + piece.num_frames)
        return ends


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--suffix", choices=SUFFIXES, default=".mp4")
    parser.add_argument("--height", type=int, default=SIZE[0])
    options = parser.parse_args()

    materials = find_materials(options.data_dir)
    size = (options.height, round(options.height * SIZE[1] / SIZE[0] / 2) * 2)
    for seed in options.seeds:
        for kind in options.kinds:
            plan = plan_recording(materials, kind, seed)
            path = options.out / f"{kind}_{seed}{options.suffix}"
            print(write_recording(plan, path, size=size))


def find_materials(folder: Path) -> list[Material]:
    """The clips of both classes, by class, source and name. Raises MediaError for what is none."""
    materials = []
    for label in (BREAK_LABEL, REST_LABEL):
        for path in sorted(list_videos(folder / label)):
            source = path.relative_to(folder / label).parts[0]
            num_frames = math.floor(probe(path).duration_seconds * FRAME_RATE)
            materials.append(Material(path, label, source, num_frames))
    return materials


def plan_recording(materials: Sequence[Material], kind: str, seed: int) -> Plan:
    """A recording of all the games there are, as long as there are spots for breaks between."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    games = _shuffle_sources([m for m in materials if m.label == REST_LABEL], rng)
    spots = [m for m in materials if m.label == BREAK_LABEL]
    spots = [spots[k] for k in rng.permutation(len(spots))]
    rest = [Piece(m, 0, m.num_frames) for m in games]
    stretches = [] if rng.random() < STARTS_WITH_BREAK else [_take_game(rest, rng)]
    while _enough(spots) and rest:
        stretches += [_take_break(spots, rng), _take_game(rest, rng)]
    if _enough(spots) and rng.random() < ENDS_WITH_BREAK:
        stretches.append(_take_break(spots, rng))
    return Plan(kind, seed, tuple(_join_pieces(stretches, kind, rng)))


def write_recording(plan: Plan, path: Path, *, size: tuple[int, int] = SIZE) -> Path:
    """Writes a planned recording at (height, width), and its truth beside it; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    sound = _sound(plan)
    with av.open(str(partial), "w", format={".mp4": "mp4", ".ts": "mpegts"}[path.suffix]) as target:
        video = target.add_stream("libx264", rate=FRAME_RATE, options=CODING[path.suffix])
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = target.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        written = 0
        pictures = tqdm(
            _pictures(plan, size), path.name, plan.num_frames, leave=False, disable=None
        )
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            target.mux(video.encode(frame))
            while written < min(len(sound), (index + 1) * SAMPLES_PER_FRAME):
                block = np.tile(sound[written : written + AAC_SAMPLES], (2, 1))
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = SAMPLE_RATE, written
                frame.time_base = Fraction(1, SAMPLE_RATE)
                target.mux(audio.encode(frame))
                written += AAC_SAMPLES
        target.mux(video.encode())
        target.mux(audio.encode())
    _write_truth(plan, path)
    os.replace(partial, path)
    return path


def repeat_recording(path: Path, target: Path, seconds: float) -> None:
    """Writes a recording of at least so many seconds, the same again and again, not coded anew."""
    with av.open(str(target), "w") as out:
        streams: dict[int, av.stream.Stream] = {}
        offset_seconds = Fraction(0)
        while offset_seconds < seconds:
            end_seconds = offset_seconds
            with av.open(str(path)) as source:
                start_seconds = Fraction(source.start_time or 0, av.time_base)
                tracks = [source.streams.video[0], *source.streams.audio[:1]]
                for track in tracks:
                    if track.index not in streams:
                        streams[track.index] = out.add_stream_from_template(track)
                for packet in source.demux(tracks):
                    # Sound before zero primes the decoder, and would overlap the round before.
                    if packet.size and (packet.stream.type == "video" or packet.pts >= 0):
                        shift = round((offset_seconds - start_seconds) / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        # The last picture shown is not the last one in the file.
                        end = (packet.pts + packet.duration) * packet.time_base
                        end_seconds = max(end_seconds, end)
                        packet.stream = streams[packet.stream.index]
                        out.mux(packet)
            offset_seconds = end_seconds


def write_broadcast(path: Path, target: Path, seconds: float) -> None:
    """Writes a recording of at least so many seconds with the breaks of a broadcast, not coded
    anew: the games of a planted recording again and again, and one of its breaks after each
    GAME_EVERY_SECONDS. It is cut at key pictures; its truth is not written.
    """
    segments = json.loads(path.with_suffix(".json").read_text())["segments"]
    games, breaks = (
        cycle([(s["start_seconds"], s["end_seconds"]) for s in segments if s["label"] == label])
        for label in (REST_LABEL, BREAK_LABEL)
    )
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        tracks = [source.streams.video[0], *source.streams.audio[:1]]
        streams = {track.index: out.add_stream_from_template(track) for track in tracks}
        read = [packet for packet in source.demux(tracks) if packet.size]
        pictures = [packet for packet in read if packet.stream is tracks[0]]
        keys = [packet.pts for packet in pictures if packet.is_keyframe]
        keys.append(max(packet.pts + packet.duration for packet in pictures))  # the end
        written = Fraction(0)
        while written < seconds:
            end = written + round(GAME_EVERY_SECONDS)
            while written < end:
                written += _copy_span(read, keys, next(games), written, streams, out)
            written += _copy_span(read, keys, next(breaks), written, streams, out)
        _copy_span(read, keys, next(games), written, streams, out)


def _copy_span(
    read: Sequence[av.Packet],
    keys: Sequence[int],
    span: tuple[float, float],
    at: Fraction,
    streams: dict[int, av.stream.Stream],
    out: av.container.OutputContainer,
) -> Fraction:
    """Writes the packets between the key pictures next to both ends of a span; their seconds."""
    video = read[0].stream.container.streams.video[0]
    ticks = [keys[0] + round(seconds / video.time_base) for seconds in span]
    first, last = (min(keys, key=lambda key: abs(key - tick)) for tick in ticks)
    if first == last:
        raise ValueError(f"no key picture is near both ends of {span}: plant longer stretches")
    first_seconds, last_seconds = first * video.time_base, last * video.time_base
    inside = False
    for packet in read:
        if packet.stream is video:
            inside = packet.pts == first or (inside and packet.pts != last)
            is_wanted = inside
        else:
            is_wanted = first_seconds <= packet.pts * packet.time_base < last_seconds
        if is_wanted:
            copy = av.Packet(bytes(packet))
            shift = round((at - first_seconds) / packet.time_base)
            copy.pts, copy.dts = packet.pts + shift, packet.dts + shift
            copy.time_base, copy.duration = packet.time_base, packet.duration
            copy.is_keyframe, copy.stream = packet.is_keyframe, streams[packet.stream.index]
            out.mux(copy)
    return last_seconds - first_seconds


def _shuffle_sources(materials: list[Material], rng: np.random.Generator) -> list[Material]:
    """The clips of a source after one another as they were, the sources in any order."""
    sources = sorted({m.source for m in materials})
    order = [sources[k] for k in rng.permutation(len(sources))]
    return sorted(materials, key=lambda m: order.index(m.source))


def _take_game(rest: list[Piece], rng: np.random.Generator) -> list[Piece]:
    """Takes the next stretch of game off the front of `rest`; the last clip may be cut in two."""
    shortest = round(SHORTEST_PIECE_SECONDS * FRAME_RATE)
    wanted = round(np.exp(rng.uniform(*np.log(GAME_SECONDS))) * FRAME_RATE)
    left = sum(piece.num_frames for piece in rest)
    if left < wanted + GAME_SECONDS[0] * FRAME_RATE:
        wanted = left
    taken: list[Piece] = []
    while rest and wanted >= shortest:
        piece = rest.pop(0)
        if piece.num_frames > wanted + shortest:
            after = replace(piece, first=piece.first + wanted, num_frames=piece.num_frames - wanted)
            rest.insert(0, after)
            piece = replace(piece, num_frames=wanted)
        taken.append(piece)
        wanted -= piece.num_frames
    return taken


def _enough(spots: list[Material]) -> bool:
    return sum(spot.num_frames for spot in spots) >= BREAK_SECONDS[0] * FRAME_RATE


def _take_break(spots: list[Material], rng: np.random.Generator) -> list[Piece]:
    """Takes the spots of the next break off the front of `spots`."""
    wanted, most = (round(s * FRAME_RATE) for s in (rng.uniform(*BREAK_SECONDS), BREAK_SECONDS[1]))
    taken: list[Piece] = []
    total = 0
    while spots and total < wanted and (not taken or total + spots[0].num_frames <= most):
        spot = spots.pop(0)
        taken.append(Piece(spot, 0, spot.num_frames))
        total += spot.num_frames
    return taken


def _join_pieces(
    stretches: list[list[Piece]], kind: str, rng: np.random.Generator
) -> Iterator[Piece]:
    """The pieces in order, with what comes between them, louder and brighter or not.

    Within a stretch of game there are cuts only.
    """
    leveled = kind == "level" or (kind == "mixed" and rng.random() < 0.5)
    decibels = rng.choice([-1, 1]) * rng.uniform(*LEVEL_DECIBELS) if leveled else 0.0
    for number, stretch in enumerate(stretches):
        luma = rng.choice([-1, 1]) * rng.uniform(*LEVEL_LUMA) if leveled else 0.0
        for index, piece in enumerate(stretch):
            is_ad = piece.material.label == BREAK_LABEL
            if is_ad:
                piece = replace(piece, luma_shift=luma)
            # The louder part stays as it is and the other gets quieter: nothing is clipped.
            if is_ad == (decibels < 0):
                piece = replace(piece, gain_decibels=-abs(decibels))
            if (number or index) and (is_ad or index == 0):
                piece = _with_join(piece, kind, rng)
            yield piece


def _with_join(piece: Piece, kind: str, rng: np.random.Generator) -> Piece:
    join = {"hard": "cut", "level": "cut"}.get(kind, kind)
    if kind == "mixed":
        join = str(rng.choice(["cut", "black", "fade"]))
    if join == "cut":
        return piece
    seconds = rng.uniform(*(BLACK_SECONDS if join == "black" else FADE_SECONDS))
    return replace(piece, join=join, join_frames=max(2, 2 * round(seconds * FRAME_RATE / 2)))


def _pictures(plan: Plan, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields the plan's pictures, (height * 3 / 2, width) uint8 in the planes of yuv420p."""
    height, width = size
    black = np.full((height * 3 // 2, width), 128, np.uint8)
    black[:height] = BLACK_LUMA
    held: deque[np.ndarray] = deque()
    for piece, following in zip(plan.pieces, [*plan.pieces[1:], None], strict=True):
        pictures = _piece_pictures(piece, size)
        if piece.join == "black":
            yield from (black for _ in range(piece.join_frames))
        for index in range(len(held)):
            weight = (index + 1) / (piece.join_frames + 1)
            before, after = held.popleft(), next(pictures)
            yield (before + weight * (after.astype(np.float32) - before)).round().astype(np.uint8)
        hold = following.join_frames if following and following.join == "fade" else 0
        for picture in pictures:
            held.append(picture)
            if len(held) > hold:
                yield held.popleft()


def _piece_pictures(piece: Piece, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields num_frames pictures; where the clip has fewer than it says, the last again."""
    height, width = size
    picture, count = None, 0
    with opened(piece.material.path) as container:
        stream = video_stream(container)
        incoming, clock = packets(container, stream), Clock(stream)
        moments = moments_of(incoming, stream, clock, FRAME_RATE, mode="exact")
        frames = pictures_on_grid(moments, FRAME_RATE)
        for frame in islice(frames, piece.first, piece.first + piece.num_frames):
            picture = frame.reformat(width, height, "yuv420p").to_ndarray()
            if piece.luma_shift:
                luma = picture[:height] + np.float32(piece.luma_shift)
                picture[:height] = luma.clip(BLACK_LUMA, WHITE_LUMA)
            count += 1
            yield picture
    yield from (picture for _ in range(piece.num_frames - count))


def _sound(plan: Plan) -> np.ndarray:
    """(samples,) float32 of the whole recording; clips without sound are silence."""
    sound = np.zeros(plan.num_frames * SAMPLES_PER_FRAME, np.float32)
    for piece, end in zip(plan.pieces, plan.ends, strict=True):
        samples = _piece_sound(piece)
        start = end * SAMPLES_PER_FRAME - len(samples)
        if piece.join == "fade":
            shared = piece.join_frames * SAMPLES_PER_FRAME
            ramp = np.linspace(0, 1, shared, dtype=np.float32)
            samples[:shared] *= ramp
            sound[start : start + shared] *= 1 - ramp
        sound[start : start + len(samples)] += samples
    return sound


def _piece_sound(piece: Piece) -> np.ndarray:
    """(samples,) float32, as long as its pictures."""
    samples = np.zeros(piece.num_frames * SAMPLES_PER_FRAME, np.float32)
    with contextlib.suppress(MediaError):  # there is none
        whole = np.concatenate(list(read_audio(piece.material.path, SAMPLE_RATE)))
        heard = whole[piece.first * SAMPLES_PER_FRAME :][: len(samples)]
        samples[: len(heard)] = heard * 10 ** (piece.gain_decibels / 20)
    return samples


def _write_truth(plan: Plan, path: Path) -> None:
    rows = [(a / FRAME_RATE, b / FRAME_RATE, label) for a, b, label in plan.spans()]
    breaks = [f"{a:.2f} {b:.2f} 3\n" for a, b, label in rows if label == BREAK_LABEL]
    keys = ("start_seconds", "end_seconds", "label")
    record = {
        "duration_seconds": plan.num_frames / FRAME_RATE,
        "kind": plan.kind,
        "segments": [dict(zip(keys, row, strict=True)) for row in rows],
        "pieces": [
            {
                "start_seconds": (end - piece.num_frames) / FRAME_RATE,
                "end_seconds": end / FRAME_RATE,
                "clip": "/".join(piece.material.path.parts[-3:]),
                "join": piece.join,
            }
            for piece, end in zip(plan.pieces, plan.ends, strict=True)
        ],
    }
    write_whole(path.with_suffix(".edl"), "".join(breaks).encode())
    write_whole(path.with_suffix(".json"), json.dumps(record, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
