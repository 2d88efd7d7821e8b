"""Hardware: NVIDIA cards, and their video decoder where there is one that works."""

import functools
import os

import av
import pynvml
from av.codec.hwaccel import HWAccel, hwdevices_available

from utils.media import opened, video_stream

# Of the card's decoder every picture is copied back whole; small ones are decoded as soon by a
# core, which leaves out most of them. An estimate: no card was at hand to measure it.
MIN_HEIGHT = 720
# One context for all files of a process, as making one takes as long as decoding a clip.
DEVICE_OPTIONS = {"primary_ctx": "1"}
HARDWARE_MODES = ("fast", "exact")  # the others decode few pictures, or by themselves

Card = HWAccel


@functools.cache
def has_gpu() -> bool:
    """Returns whether there is a GPU of NVIDIA with a driver, which torch may be able to use."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount() > 0
    except pynvml.NVMLError:
        return False


def find_card(path: str | os.PathLike, mode: str) -> Card | None:
    """Returns the card that is to decode a video, None where software does. Raises MediaError."""
    if mode not in HARDWARE_MODES or _open_device() is None:
        return None
    with opened(path) as container:
        if video_stream(container).height < MIN_HEIGHT:
            return None
    # Without fallback: libav's own would not say that it is used.
    return HWAccel("cuda", allow_software_fallback=False, options=DEVICE_OPTIONS)


@functools.cache
def _open_device() -> HWAccel | None:
    """Returns an open device, which keeps the context alive, None where none can be opened."""
    if "cuda" not in hwdevices_available():
        return None
    try:
        return HWAccel("cuda", options=DEVICE_OPTIONS).create(av.Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError):
        return None
