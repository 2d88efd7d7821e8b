"""Reading: what scoring needs of a recording, embedded as it is decoded, and kept where wanted."""

import contextlib
import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from timeline.dense import EmbeddedBlock
from timeline.network import Trunk
from utils.audio import find_sound_file
from utils.content_hashes import ContentHashes, hash_file
from utils.damage import Damage, DamageLog
from utils.features import FeatureBlock, FeatureSpec, read_features
from utils.files import replacing
from utils.hardware import find_card
from utils.lanes import read_in_lanes, side_by_side
from utils.media import WHOLE, Part, SplitError
from utils.parts import cut_recording
from utils.prefetch import prefetch
from utils.sources import Folder
from utils.video import VideoInfo

# Pictures a second that are embedded of a long recording. On sources left out, 2 instead of 4
# changed probabilities by 0.010 (10 s windows) and 0.016 (4 s), 1.0 and 1.7 % of the labels, and
# accuracy by +0.3 and -0.3 points; 1 a second by 0.025 and 0.039, 2.3 and 4.2 % of the labels.
EMBEDDED_FPS = 2.0
FULL_RATE_SECONDS = 60.0  # recordings up to this are judged by all frames, as in training
# Mean difference of pixels, 0..255, below which a picture is taken for the one embedded before: 5
# to 35 % of the pictures, which changed probabilities by 0.001 and 0.05 % of the labels.
SAME_PICTURE = 2.0
MAX_DECODERS = 4
LANE_SECONDS = 120.0  # of a part, at most: what waits for its turn is little, and opened seldom
VERSION = 1  # of kept files


@dataclass
class Reading:
    """A recording as scoring reads it, and what was found on the way."""

    path: Path
    spec: FeatureSpec
    full_fps: float  # of the frames that the network was trained on
    info: VideoInfo
    damage: DamageLog = field(default_factory=DamageLog)

    @property
    def is_long(self) -> bool:
        return not 0 < self.info.duration_seconds <= FULL_RATE_SECONDS

    def duration_seconds(self, num_frames: int) -> float:
        """The end of the last picture, where the frames do not say otherwise."""
        seconds, end = num_frames / self.spec.fps, self.damage.end_seconds
        is_near = end is not None and seconds - 1 / self.spec.fps < end <= seconds
        return end if is_near else seconds


def scoring_spec(spec: FeatureSpec, duration_seconds: float) -> FeatureSpec:
    """The spec by which a recording is scored: of a long one, fewer frames are embedded."""
    if 0 < duration_seconds <= FULL_RATE_SECONDS:
        return spec
    return replace(spec, fps=spec.fps / max(1, int(spec.fps / EMBEDDED_FPS)))


def embed_recording(reading: Reading, trunk: Trunk) -> Iterator[EmbeddedBlock]:
    """Yields a recording, decoded and embedded side by side."""
    embedder = _Embedder(trunk, reading)
    with contextlib.closing(_read_blocks(reading, trunk.threads)) as blocks:
        for block in blocks:
            yield embedder(block, reading.damage)


def embed_parts(
    reading: Reading, trunk: Trunk, parts: Sequence[tuple[Part, int]]
) -> Iterator[tuple[int, EmbeddedBlock]]:
    """Yields the pictures of some parts, read and embedded side by side, each block with the number
    of its first frame. Parts come with the number of theirs."""
    damage, lanes = reading.damage, min(trunk.threads, MAX_DECODERS)
    logs = [damage.of_part() for _ in parts]
    readings = [
        partial(
            read_features,
            reading.path,
            reading.spec,
            part,
            damage=log,
            sound=False,
            bars_by_stretch=reading.is_long,
        )
        for (part, _), log in zip(parts, logs, strict=True)
    ]
    embedders = [_Embedder(trunk, reading, first_frame) for _, first_frame in parts]
    with contextlib.closing(side_by_side(readings, lanes)) as blocks:
        for index, block in blocks:
            first_frame = embedders[index].num_frames
            yield first_frame, embedders[index](block, damage)
    for log in logs:
        damage.take_over(log)


def _read_blocks(reading: Reading, threads: int) -> Iterator[FeatureBlock]:
    """Yields a recording's features, read by lanes where it can be cut into parts.

    Decoders of a thread each do it with a quarter less of the processor's time than one of several
    threads, and the sound does not wait for the pictures. Key pictures are one part.
    """
    path, spec, damage = reading.path, reading.spec, reading.damage
    lanes, how = min(threads, MAX_DECODERS), {"bars_by_stretch": reading.is_long}
    num_frames = num_rows = 0
    parts = _lane_parts(reading, lanes)
    if len(parts) > 1 or (spec.frames == "keyframes" and lanes > 1):
        read = read_in_lanes(path, spec, parts, lanes=lanes, damage=damage, **how)
        try:
            with contextlib.closing(read):
                for block in read:
                    yield block
                    num_frames += len(block.frames)
                    num_rows += 0 if block.mfcc is None else len(block.mfcc)
            return
        except SplitError:
            damage.clear()  # all blocks until here were taken, so nobody looks at it
    blocks = read_features(path, spec, threads=lanes, damage=damage, **how)
    with contextlib.closing(prefetch(blocks)) as ahead:
        for block in ahead:
            yield block.without_first(num_frames, num_rows)
            num_frames = max(0, num_frames - len(block.frames))
            num_rows = max(0, num_rows - (0 if block.mfcc is None else len(block.mfcc)))


def _lane_parts(reading: Reading, lanes: int) -> list[Part]:
    """As many parts for each lane, so that all are done at the same time."""
    seconds = reading.info.duration_seconds
    if lanes == 1 or not (reading.is_long and seconds) or find_card(reading.path, "fast"):
        return [WHOLE]
    count = lanes * math.ceil(seconds / (lanes * LANE_SECONDS))
    lit = reading.spec.crop_bars
    return cut_recording(reading.path, reading.spec, seconds / count, min_seconds=0.0, lit=lit)


class KeptEmbeddings:
    """Embeddings and MFCC of recordings, in a folder: a ZIP file for each content.

        <hash>.zip
            embeddings, shown, mfcc, sounding    bytes of the arrays, row by row
            info.json                            rows, damage, and what made them

    The name is a hash of the files' content, of the spec and of the trunk: another trunk makes
    other files. ZIP tells damage by its checksums; damaged files are made anew.
    """

    def __init__(self, folder: Path, trunk: Trunk):
        self._folder = Path(folder)
        self._trunk = trunk

    def path_of(self, reading: Reading) -> Path:
        """Where a recording's are. Reads all of its files once, unless they did not change."""
        sound = find_sound_file(reading.path)
        digests = [self._content(path) for path in (reading.path, sound) if path is not None]
        text = json.dumps([VERSION, digests, reading.spec.id, self._trunk.id])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.zip"

    def write(
        self, path: Path, reading: Reading, blocks: Iterator[EmbeddedBlock]
    ) -> Iterator[EmbeddedBlock]:
        """Yields the blocks, and has kept them when the last one was taken."""
        rest: dict[str, list[bytes]] = {"shown": [], "mfcc": [], "sounding": []}
        has_track = False
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
            with file.open("embeddings", "w", force_zip64=True) as member:
                for block in blocks:
                    member.write(block.embeddings.tobytes())
                    rest["shown"].append(block.shown.tobytes())
                    rest["sounding"].append(block.sounding.tobytes())
                    if block.mfcc is not None:
                        has_track = True
                        rest["mfcc"].append(block.mfcc.tobytes())
                    yield block
            for name, parts in rest.items():
                file.writestr(name, b"".join(parts))
            damage = [asdict(record) for record in reading.damage.records]
            info = {
                "has_track": has_track,
                "end_seconds": reading.damage.end_seconds,
                "damage": damage,
            }
            file.writestr("info.json", json.dumps(info))

    def read(self, path: Path, reading: Reading) -> Iterator[EmbeddedBlock] | None:
        """The blocks that were kept and their damage, None where there are none or damaged ones."""
        try:
            with zipfile.ZipFile(path) as file:
                arrays = {name: file.read(name) for name in file.namelist()}
            info = json.loads(arrays["info.json"])
            shown = np.frombuffer(arrays["shown"], bool)
            sounding = np.frombuffer(arrays["sounding"], bool)
            embeddings = np.frombuffer(arrays["embeddings"], np.float16)
            embeddings = embeddings.reshape(len(shown), self._trunk.embedding_size)
            mfcc = np.frombuffer(arrays["mfcc"], np.float16)
            mfcc = mfcc.reshape(len(sounding), reading.spec.mfcc.n_mfcc)
            damage = tuple(Damage(**record) for record in info["damage"])
            reading.damage.restore(damage, info["end_seconds"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        return iter(
            [EmbeddedBlock(embeddings, shown, mfcc if info["has_track"] else None, sounding)]
        )

    def _content(self, path: Path) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        hashes = ContentHashes(self._folder / "content_hashes.json", Folder(path.parent))
        stamps = hashes.stamps([path.name])
        (digest,) = hashes.find([path.name], stamps)
        if digest is None:
            digest = hash_file(path, lambda _: None)
            hashes.learn(path.name, stamps[0], digest)
            hashes.save()
        return digest


class _Embedder:
    """Embeds blocks in their order; of long recordings, pictures that hardly differ only once."""

    def __init__(self, trunk: Trunk, reading: Reading, first_frame: int = 0):
        self.num_frames = first_frame  # so far
        self._spec = reading.spec
        self._num_rows = self._spec.num_rows(first_frame)
        self._trunk = trunk
        self._same = SAME_PICTURE if self._spec.fps < reading.full_fps else 0.0
        self._last_frame: np.ndarray | None = None
        self._last: np.ndarray | None = None  # (1, 1280) of that frame

    def __call__(self, block: FeatureBlock, damage: DamageLog) -> EmbeddedBlock:
        """The block, of which nothing is known where damage says so."""
        num_frames, fps = len(block.frames), self._spec.fps
        num_rows = 0 if block.mfcc is None else len(block.mfcc)
        rate = self._spec.mfcc.frames_per_second
        shown = ~_inside(damage.picture_gaps, self.num_frames, num_frames, fps)
        sounding = ~_inside(damage.sound_gaps, self._num_rows, num_rows, rate)
        self.num_frames += num_frames
        self._num_rows += num_rows
        return EmbeddedBlock(self._embed(block.frames), shown, block.mfcc, sounding & block.heard)

    def _embed(self, frames: np.ndarray) -> np.ndarray:
        new, sources = [], []
        for index, frame in enumerate(frames):
            if self._last_frame is None or _difference(frame, self._last_frame) > self._same:
                new.append(index)
                self._last_frame = frame
            sources.append(len(new))  # 0 for the last of the block before
        embeddings = self._trunk.embed(frames[new])
        if self._last is not None:
            embeddings = np.concatenate([self._last, embeddings])
        else:
            sources = [source - 1 for source in sources]
        self._last = embeddings[-1:].copy() if len(embeddings) else None
        return embeddings[sources]


def _difference(frame: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels, 0..255; every second one of every second row is enough to tell."""
    a, b = frame[::2, ::2].astype(np.int16), other[::2, ::2]
    return float(np.abs(a - b).mean())


def _inside(gaps: list[tuple[float, float]], first: int, count: int, rate: float) -> np.ndarray:
    """(count,) bool: whether row `first` + i, at (first + i) / rate, lies in a gap."""
    times = (first + np.arange(count)) / rate
    inside = np.zeros(count, bool)
    for start, end in list(gaps):
        if count and start <= times[-1] and end > times[0]:
            inside |= (times >= start) & (times < end)
    return inside
