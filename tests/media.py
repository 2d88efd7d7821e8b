"""Made media with a known truth: pictures that carry their own time, tones that do too."""

import wave
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 60_000  # a second of the video's time base: whole for every usual frame rate
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
TIME_BLOCKS = (2, 8)  # rows and columns of the blocks that spell a time: 16 bits of milliseconds


def draw_time(seconds: float, height: int, width: int) -> np.ndarray:
    """Returns (height, width, 3) uint8 of black and white blocks, which `read_time` reads."""
    milliseconds = round(seconds * 1000)
    bits = [milliseconds >> bit & 1 for bit in range(TIME_BLOCKS[0] * TIME_BLOCKS[1])]
    blocks = np.array(bits, np.uint8).reshape(TIME_BLOCKS) * 255
    rows = np.arange(height) * TIME_BLOCKS[0] // height
    columns = np.arange(width) * TIME_BLOCKS[1] // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def read_time(picture: np.ndarray) -> float:
    """Returns the seconds that `draw_time` wrote into a picture, of whatever size it is now."""
    height, width = picture.shape[0] // TIME_BLOCKS[0], picture.shape[1] // TIME_BLOCKS[1]
    milliseconds = 0
    for bit in range(TIME_BLOCKS[0] * TIME_BLOCKS[1]):
        row, column = divmod(bit, TIME_BLOCKS[1])
        top, left = row * height + height // 4, column * width + width // 4
        block = picture[top : top + height // 2, left : left + max(1, width // 2)]
        milliseconds |= int(block.mean() > 127) << bit
    return milliseconds / 1000


def draw_texture(seconds: float, height: int, width: int) -> np.ndarray:
    """Returns (height, width, 3) uint8: smooth coloured waves that move, like a filmed picture."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [
        np.sin(2 * np.pi * (f * x + g * y + h * seconds))
        for f, g, h in ((3, 1, 1), (1, 4, 2), (5, 5, 1))
    ]
    return np.clip(128 + 90 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def with_bars(
    draw: Callable, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0
) -> Callable:
    """Returns a `draw` whose picture stands between black bars of so many pixels."""

    def barred(seconds: float, height: int, width: int) -> np.ndarray:
        picture = np.zeros((height, width, 3), np.uint8)
        inside = picture[top : height - bottom, left : width - right]
        inside[:] = draw(seconds, *inside.shape[:2])
        return picture

    return barred


def tone(hertz: float | Sequence[float], seconds: float, sample_rate: int) -> np.ndarray:
    """Returns (samples,) float32 of amplitude 0.5; of several pitches, each lasts a second."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    pitches = np.atleast_1d(np.asarray(hertz, float))
    pitch = pitches[np.minimum(times.astype(int), len(pitches) - 1)]
    return (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def pitch_of(samples: np.ndarray, sample_rate: int) -> float:
    """Returns the loudest frequency in hertz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * sample_rate / len(samples)


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> Path:
    """Writes (samples,) or (channels, samples) float sound as 16-bit PCM; returns the path."""
    samples = np.atleast_2d(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return path


def write_video(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: float = 25,
    size: tuple[int, int] = (72, 128),
    draw: Callable[[float, int, int], np.ndarray] | None = None,
    tone_hz: float | Sequence[float] | None = 440.0,
    channels: int = 1,
    sample_rate: int = 48000,
    audio_delay_seconds: float = 0.0,
    audio_seconds: float | None = None,
    times: Iterable[float] | None = None,
    start_seconds: float = 0.0,
    rotation_degrees: int = 0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    colorspace: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a video and returns its path.

    `draw(seconds, height, width)` returns (height, width, 3) uint8 RGB, by default `draw_time`. It
    draws at `times` (variable frame rate) if given, else at every 1 / fps. The first picture's
    timestamp is `start_seconds`, the sound starts `audio_delay_seconds` after it (with None for
    `tone_hz` there is none) and lasts `audio_seconds`, by default to the end. A player turns the
    stored picture clockwise by `rotation_degrees`. `colorspace` names the matrix that the colours
    are stored by, and is written into the file.
    """
    draw = draw or draw_time
    # AVI and MPEG-2 count pictures, the others time.
    counts = path.suffix in (".avi", ".mpg") or codec == "mpeg2video"
    time_base = Fraction(1, int(fps)) if counts else Fraction(1, TICKS)
    times = list(times) if times is not None else [k / fps for k in range(round(seconds * fps))]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width = size
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = time_base
        video.options = (
            {"preset": "veryfast"} if codec == "libx264" and not options else options or {}
        )
        if colorspace:
            video.codec_context.colorspace = av.video.reformatter.Colorspace[colorspace]
            video.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        if rotation_degrees:
            video.set_display_rotation(-rotation_degrees)
        audio = None
        if tone_hz is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout=LAYOUTS[channels])
        for time in times:
            frame = av.VideoFrame.from_ndarray(draw(time, *size), format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace)
            frame.pts, frame.time_base = round((start_seconds + time) / time_base), time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            lasts = seconds - audio_delay_seconds if audio_seconds is None else audio_seconds
            sound = tone(tone_hz, lasts, sample_rate)
            first = round((start_seconds + audio_delay_seconds) * sample_rate)
            for start in range(0, len(sound), 1024):
                block = np.tile(sound[start : start + 1024], (channels, 1))
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=LAYOUTS[channels])
                frame.sample_rate = sample_rate
                frame.pts, frame.time_base = first + start, Fraction(1, sample_rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path
