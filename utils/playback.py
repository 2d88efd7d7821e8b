"""Playback: what a recording's tracks are, and whether a browser plays them as they are."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import av

from utils.media import audio_stream, opened, video_stream
from utils.video import VideoInfo, probe

# Eight bits, a colour sample for two by two pixels: what the decoders of browsers and phones take.
PLAYABLE_PIXELS = ("yuv420p", "yuvj420p")
# By container, what Chromium, Firefox and Safari all play of each kind of track.
PLAYABLE_PICTURES = {"mp4": ("h264", "vp9", "av1"), "webm": ("vp8", "vp9", "av1")}
PLAYABLE_SOUND = {"mp4": ("aac", "mp3", "opus"), "webm": ("opus", "vorbis")}
MEDIA_TYPES = {
    "mp4": "video/mp4",  # QuickTime's too, as browsers play it under this name only
    "webm": "video/webm",
    "matroska": "video/x-matroska",
    "mpegts": "video/mp2t",
    "mpeg": "video/mpeg",
    "avi": "video/x-msvideo",
}
# A file that starts later is one of which browsers disagree when its first picture is shown:
# Chromium counts from its timestamps' zero, Firefox from its start.
MAX_START_SECONDS = 0.025
WEBM_MARK, HEAD_BYTES = b"webm", 64  # Matroska's header names its kind within its first bytes


@dataclass(frozen=True)
class Tracks:
    """What the tracks that are shown and heard by default are made of."""

    container: str  # "mp4", "webm", or libav's name of another
    picture_codec: str
    pixel_format: str
    sound_codec: str | None  # None without sound
    start_seconds: float  # the first timestamp of all

    @property
    def plays(self) -> bool:
        """Whether a browser plays the file as it is, and we know when."""
        starts = abs(self.start_seconds) <= MAX_START_SECONDS
        return starts and self.plays_picture(self.container) and self.plays_sound(self.container)

    def plays_picture(self, container: str) -> bool:
        """Whether a browser plays its pictures as they are, in that container."""
        is_plain = self.pixel_format in PLAYABLE_PIXELS
        return is_plain and self.picture_codec in PLAYABLE_PICTURES.get(container, ())

    def plays_sound(self, container: str) -> bool:
        return self.sound_codec in (None, *PLAYABLE_SOUND.get(container, ()))

    @property
    def media_type(self) -> str:
        """What a server calls the file."""
        return MEDIA_TYPES.get(self.container, "application/octet-stream")


def read_tracks(path: str | os.PathLike) -> Tracks:
    """Returns what a recording's tracks are; decodes nothing. Raises MediaError."""
    with opened(path) as container:
        picture = video_stream(container).codec_context
        sound = audio_stream(container)
        return Tracks(
            container=_container(container, path),
            picture_codec=picture.name,
            pixel_format=picture.pix_fmt or "",
            sound_codec=None if sound is None else sound.codec_context.name,
            start_seconds=(container.start_time or 0) / av.time_base,
        )


def look_into(
    path: str | os.PathLike, report: Callable[[object], None] = lambda _: None
) -> tuple[VideoInfo, Tracks]:
    """Returns what is known of a recording after decoding one picture. Raises MediaError."""
    return probe(path), read_tracks(path)


def _container(container: av.container.InputContainer, path: str | os.PathLike) -> str:
    names = container.format.name.split(",")
    if "matroska" in names:
        with open(path, "rb") as file:
            return "webm" if WEBM_MARK in file.read(HEAD_BYTES) else "matroska"
    return "mp4" if "mp4" in names else names[0]
