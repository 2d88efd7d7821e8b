"""Scaling: pictures cropped, turned upright and brought to the size of a frame."""

from fractions import Fraction

import av
import numpy as np

from utils.media import Crop, MediaError

PLANAR_LUMA_FORMATS = {
    *("yuv420p", "yuv422p", "yuv444p", "nv12"),
    *("yuvj420p", "yuvj422p", "yuvj444p"),
}
# Luma of limited range, 16 to 235, brought to 0 to 255.
FULL_RANGE = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
LUMA_SIZE = 640  # pixels of the longer side of a luma picture, about
HDR_TRANSFERS = (
    av.video.reformatter.ColorTrc.SMPTE2084,
    av.video.reformatter.ColorTrc.ARIB_STD_B67,
)


class _Scaler:
    """Crops, scales and turns pictures, whose size or format may change midway.

    Gives (height, width, 3) uint8 RGB, and the same array again for the same picture. Raises
    MediaError.
    """

    def __init__(self, size: tuple[int, int], crop: Crop | None):
        self._size = size
        self._crop = crop
        self._reference_size: tuple[int, int] | None = None
        self._last: tuple[object, np.ndarray | None] = (None, None)

    @property
    def aspect_ratio(self) -> float:
        """Width / height of what is kept of the first picture."""
        if self._crop is not None:
            crop = self._crop
            return (crop.right - crop.left) / (crop.bottom - crop.top)
        height, width = self._reference_size
        return width / height

    def __call__(self, picture: av.VideoFrame | np.ndarray) -> np.ndarray:
        if picture is not self._last[0]:
            self._last = (picture, self._scale(picture))
        return self._last[1]


class PyavScaler(_Scaler):
    """Scales pictures of PyAV."""

    def __init__(self, size: tuple[int, int], crop: Crop | None):
        super().__init__(size, crop)
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple | None = None

    def _scale(self, frame: av.VideoFrame) -> np.ndarray:
        turns = quarter_turns(frame)
        self._reference_size = self._reference_size or displayed_size(frame)
        graph_input = (frame.width, frame.height, frame.format.name, frame.color_trc, turns)
        try:
            if graph_input != self._graph_input:
                self._graph, self._graph_input = self._build(frame, turns), graph_input
            self._graph.vpush(frame)
            picture = self._graph.vpull().to_ndarray()
        except av.FFmpegError as error:
            raise MediaError(f"its pictures can't be scaled ({error})") from error
        return np.ascontiguousarray(np.rot90(picture, turns))

    def _build(self, frame: av.VideoFrame, turns: int) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            )
        ]
        if self._crop is not None:
            height, width = displayed_size(frame)
            crop = _crop_for(self._crop, self._reference_size, (height, width))
            for _ in range(turns):
                crop = Crop(crop.left, crop.right, height - crop.bottom, height - crop.top)
                height, width = width, height
            cut = f"{crop.right - crop.left}:{crop.bottom - crop.top}:{crop.left}:{crop.top}"
            nodes.append(graph.add("crop", cut))
        height, width = self._size if turns % 2 == 0 else self._size[::-1]
        # Without full_chroma_int the small picture has colour for every second column only.
        scale = f"{width}:{height}:flags=area+full_chroma_int"
        if frame.color_trc in HDR_TRANSFERS:  # what OpenCV does, in its other scaler
            scale = f"{width}:{height}:flags=area:out_primaries=bt709:out_transfer=bt709"
        nodes += [graph.add("scale", scale), graph.add("format", "rgb24"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        return graph


class StretchScaler:
    """Scales pictures of PyAV that come each with a crop of its own.

    Holds what the last crop needs only: a long recording may have many.
    """

    def __init__(self, size: tuple[int, int]):
        self._size = size
        self._crop: Crop | None = None
        self._scaler: PyavScaler | None = None
        self.aspect_ratio: float | None = None  # width / height of what is kept of the first one

    def __call__(self, cropped: tuple[av.VideoFrame, Crop | None]) -> np.ndarray:
        picture, crop = cropped
        if self._scaler is None or crop != self._crop:
            self._scaler, self._crop = PyavScaler(self._size, crop), crop
        frame = self._scaler(picture)
        self.aspect_ratio = self.aspect_ratio or self._scaler.aspect_ratio
        return frame


class OpencvScaler(_Scaler):
    """Scales pictures of OpenCV, which turned them already."""

    def _scale(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        self._reference_size = self._reference_size or picture.shape[:2]
        if self._crop is not None:
            crop = _crop_for(self._crop, self._reference_size, picture.shape[:2])
            picture = picture[crop.top : crop.bottom, crop.left : crop.right]
        try:
            small = cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_AREA)
        except cv2.error as error:
            raise MediaError(f"its pictures can't be scaled ({error.err})") from error
        return np.ascontiguousarray(small[:, :, ::-1])


def luma_of(frame: av.VideoFrame) -> np.ndarray:
    """Returns (height, width) uint8, full range, upright, a whole number of times smaller than the
    picture. Raises MediaError."""
    parts = max(1, round(max(frame.height, frame.width) / LUMA_SIZE))
    if parts == 1 and frame.format.name in PLANAR_LUMA_FORMATS:
        return np.rot90(_full_range(frame, _luma_plane(frame)), quarter_turns(frame))
    height, width = frame.height // parts, frame.width // parts
    try:
        small = frame.reformat(width, height, "gray", interpolation="AREA", threads=1)
    except av.FFmpegError as error:
        raise MediaError(f"its pictures can't be scaled ({error})") from error
    return np.rot90(small.to_ndarray(), quarter_turns(frame))


def full_range_edges(frame: av.VideoFrame) -> tuple[np.ndarray, ...]:
    """Returns the first and the last row and the first and the last column, of the stored picture,
    each a line of uint8 luma in full range. Costs next to nothing for usual formats."""
    is_planar = frame.format.name in PLANAR_LUMA_FORMATS
    luma = _luma_plane(frame) if is_planar else luma_of(frame)
    edges = luma[0], luma[-1], luma[:, 0], luma[:, -1]
    return tuple(_full_range(frame, edge) for edge in edges) if is_planar else edges


def _luma_plane(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return luma[: frame.height, : frame.width]


def _full_range(frame: av.VideoFrame, luma: np.ndarray) -> np.ndarray:
    is_full = frame.color_range == av.video.reformatter.ColorRange.JPEG
    return luma if is_full or frame.format.name.startswith("yuvj") else FULL_RANGE[luma]


def quarter_turns(frame: av.VideoFrame) -> int:
    """Returns how many times a picture is to be turned left by 90 degrees to be upright."""
    return round(frame.rotation / 90) % 4


def size_bytes(frame: av.VideoFrame) -> int:
    """Returns what a decoded picture takes in memory."""
    return sum(plane.buffer_size for plane in frame.planes)


def displayed_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Returns (height, width) in pixels of the upright picture."""
    size = (frame.height, frame.width)
    return size if quarter_turns(frame) % 2 == 0 else size[::-1]


def _crop_for(crop: Crop, reference_size: tuple[int, int], size: tuple[int, int]) -> Crop:
    """Returns the crop on a picture of another size: a broadcast may change it midway."""
    down, across = (new / old for new, old in zip(size, reference_size, strict=True))
    # Even, because pictures keep one colour sample for two pixels.
    top, left = (2 * round(v / 2) for v in (crop.top * down, crop.left * across))
    bottom = max(2 * round(crop.bottom * down / 2), top + 2)
    right = max(2 * round(crop.right * across / 2), left + 2)
    return Crop(top, min(bottom, size[0]), left, min(right, size[1]))
