"""Changed clips: which recording a part of it still finds, after others have changed the part.

Each question is the middle half of a recording, ten seconds at most, encoded anew with a change of
its picture. Right is an answer in that recording which overlaps the part.
"""

import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from search.clip_store import open_clip_store
from search.embeddings import model_version
from search.finder import Finder
from search.holdings import embed_holdings, prepare_holdings
from search.model import SearchModel
from search.names import place_of, storable
from search.places import Place
from search.stretch import read_stretch
from training.checkpoint import load_checkpoint
from training.weights import find_weights, new_model
from utils.audio import read_audio
from utils.config import make_config, read_constants
from utils.demo_data import make_demo_set
from utils.media import MediaError
from utils.sources import Folder
from utils.video import probe

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SECONDS = 10.0
ANSWERS = 10
AUDIO_RATE, AAC_SAMPLES = 44_100, 1024

Change = Callable[[np.ndarray], np.ndarray]  # of an RGB picture (H, W, 3) uint8


def cropped(picture: np.ndarray) -> np.ndarray:
    """80 % of each side, and brighter."""
    height, width = picture.shape[:2]
    part = picture[height // 10 : -(height // 10), width // 10 : -(width // 10)]
    return np.clip(part * 1.1 + 20, 0, 255).astype(np.uint8)


def covered(picture: np.ndarray) -> np.ndarray:
    """A logo in a corner, and a bar along the bottom."""
    height, width = picture.shape[:2]
    picture = picture.copy()
    picture[height // 20 : height // 5, -width // 4 : -width // 20] = (230, 30, 40)
    picture[-height // 7 :] = (20, 30, 90)
    return picture


CHANGES: dict[str, tuple[Change, int | None, int, int]] = {  # lines, pictures a second, crf
    "small": (lambda picture: picture, 180, 15, 38),
    "cropped": (cropped, None, 25, 23),
    "covered": (covered, None, 25, 23),
}


def measure_changes(
    data_dir: Path | None, checkpoint: Path | None, most: int, *, weights: str = "auto"
) -> dict[str, float]:
    """For each change, the parts of the questions whose first answer is right, one of ten is, and
    that the fingerprints tell; and how many times those told something wrong.

    By the model of `checkpoint`, or the trunk alone with these weights; of the demo set where there
    is no `data_dir`.
    """
    with tempfile.TemporaryDirectory() as text:
        scratch = Path(text)
        if data_dir is None:
            data_dir = scratch / "demo"
            make_demo_set(data_dir)
        model = open_model(checkpoint, weights)
        holdings = prepare_holdings(
            Folder(data_dir), model.spec, scratch / "cache", classes=model.classes, say=_note
        )
        with open_clip_store(cache_dir=scratch / "cache") as store:
            embed_holdings(store, model, holdings)
            finder = Finder.open(store, model, scratch / "cache")
            names = sorted(recording.name for recording in holdings.prepared.keys)
            step = max(1, len(names) // most)
            names = names[::step][:most]
            figures: dict[str, float] = {"changed_questions": len(names)}
            for change in CHANGES:
                found = list(tqdm(_ask(change, names, model, finder, scratch), change, len(names)))
                first, ten, told, wrong = np.array(found, float).T
                figures |= {
                    f"{change}_first": first.mean(),
                    f"{change}_among_ten": ten.mean(),
                    f"{change}_told": told.mean(),
                    f"{change}_told_wrong": wrong.sum(),
                }
    return figures


def open_model(checkpoint: Path | None, weights: str) -> SearchModel:
    if checkpoint is not None:
        return SearchModel.of(load_checkpoint(checkpoint), model_version(checkpoint), checkpoint)
    config = make_config(read_constants(ROOT / "cost_optimized_train.py"), {})
    found, source = find_weights(weights)
    _note(f"clips are found by the trunk alone; its weights: {source}")
    encoder = new_model(config, 2, found).video_encoder
    return SearchModel.of_trunk(encoder, config.feature_spec, f"the trunk alone, {source}")


def _ask(
    change: str, names: list[str], model: SearchModel, finder: Finder, scratch: Path
) -> Iterator[tuple[bool, bool, bool, int]]:
    question = scratch / "question.mp4"
    for name in names:
        seconds = probe(Path(name)).duration_seconds
        length = min(seconds / 2, LONGEST_SECONDS)
        span = (seconds - length) / 2, (seconds + length) / 2
        write_question(Path(name), question, span, change)
        asked = read_stretch(question, model.spec)
        spans = asked.spans(model.clip_seconds, model.hop_seconds)
        vectors = model.embedder.embed(asked.frames, asked.mfcc, spans)
        true = storable(place_of(name)), *span
        similar = [_overlap(p, true) for p in finder.similar(vectors, spans, ANSWERS)]
        same = [_overlap(place, true) for place in finder.same(asked)]
        yield any(similar[:1]), any(similar), any(same), same.count(False)


def write_question(source: Path, path: Path, span: tuple[float, float], change: str) -> None:
    """Encodes [start, end) seconds of a video anew, with its sound and a changed picture."""
    alter, lines, rate, crf = CHANGES[change]
    with av.open(str(path), "w") as out:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        video = out.add_stream("libx264", rate=rate, options=options)
        sound = _sound(source, span)
        heard = out.add_stream("aac", rate=AUDIO_RATE, layout="mono") if len(sound) else None
        for picture in _pictures(source, span, rate):
            frame = av.VideoFrame.from_ndarray(alter(picture), format="rgb24")
            if not video.codec_context.is_open:
                video.height = lines or frame.height // 2 * 2
                video.width = round(frame.width * video.height / frame.height / 2) * 2
                video.pix_fmt = "yuv420p"
            out.mux(video.encode(frame.reformat(video.width, video.height, "yuv420p")))
        out.mux(video.encode())
        for start in range(0, len(sound), AAC_SAMPLES):
            block = av.AudioFrame.from_ndarray(
                sound[None, start : start + AAC_SAMPLES], "fltp", "mono"
            )
            block.sample_rate, block.pts = AUDIO_RATE, start
            block.time_base = Fraction(1, AUDIO_RATE)
            out.mux(heard.encode(block))
        if heard is not None:
            out.mux(heard.encode())


def _pictures(source: Path, span: tuple[float, float], rate: int) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, `rate` a second of a stretch, each what is shown by then."""
    start, end = span
    moments = deque(start + number / rate for number in range(round((end - start) * rate)))
    first = shown = None
    with av.open(str(source)) as container:
        for frame in container.decode(video=0):
            first = frame.time if first is None else first
            while moments and shown is not None and frame.time - first > moments[0]:
                yield shown.to_ndarray(format="rgb24")
                moments.popleft()
            if not moments:
                return
            shown = frame
    for _ in moments:
        yield shown.to_ndarray(format="rgb24")


def _sound(source: Path, span: tuple[float, float]) -> np.ndarray:
    """(samples,) float32 of a stretch; none where the video is mute."""
    try:
        samples = np.concatenate(list(read_audio(source, AUDIO_RATE)))
    except MediaError:
        return np.zeros(0, np.float32)
    return samples[round(span[0] * AUDIO_RATE) : round(span[1] * AUDIO_RATE)]


def _overlap(place: Place, span: tuple[str, float, float]) -> bool:
    recording, start, end = span
    return place.recording == recording and place.start_seconds < end and start < place.end_seconds


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)
