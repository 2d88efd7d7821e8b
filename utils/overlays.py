"""Overlays: a strip of text and a coloured bar drawn onto the lower edge of pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from utils.encoding import Encoder
from utils.scaling import HDR_TRANSFERS, displayed_size, quarter_turns

ENCODER = Encoder("libx264", {"preset": "veryfast", "crf": "23"})
STRIP_PART = 0.125  # of the picture's height
MIN_STRIP_PIXELS = 40  # below, letters are too small to be read
GROUND = (16, 16, 16, 190)  # of the strip, RGBA: dark enough for white letters on any picture
WHITE = (255, 255, 255, 255)
BLACK = (0, 0, 0, 255)
HDR_WHITE = 0.58  # of the signal: 203 cd/m², the white of letters by ITU-R BT.2408
TENTHS = 10  # how often a second the strip is drawn anew


@dataclass(frozen=True)
class Block:
    """[start, end) of the bar's length, as parts of 1, in a colour; a striped one is doubtful."""

    start: float
    end: float
    colour: tuple[int, int, int]
    is_striped: bool = False


@dataclass(frozen=True)
class Words:
    """What a strip says: a badge in a colour, and plain words at the right."""

    badge: str
    colour: tuple[int, int, int]
    words: str
    position: float  # of the mark on the bar, as a part of 1


class StripPainter:
    """Draws a strip onto pictures, which become upright, even in size and 8 bits deep."""

    encoder = ENCODER

    def __init__(self, blocks: Sequence[Block], words_at: Callable[[float], Words]):
        self._blocks = blocks
        self._words_at = words_at
        self._size: tuple[int, int] | None = None
        self._white = 1.0
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple | None = None
        self._bar: np.ndarray | None = None
        self._strip: tuple[int, av.VideoFrame | None] = (-1, None)  # of a tenth of a second

    def prepare(self, context: av.VideoCodecContext, picture: av.VideoFrame) -> None:
        """Makes an encoder's context fit what is drawn on pictures like this one."""
        height, width = displayed_size(picture)
        self._size = height // 2 * 2, width // 2 * 2
        context.height, context.width = self._size
        context.pix_fmt = "yuv420p"
        if quarter_turns(picture) % 2 and context.sample_aspect_ratio:
            context.sample_aspect_ratio = 1 / context.sample_aspect_ratio
        # Pictures in HDR stay so, as mapping them to BT.709 takes ten times as long as all else.
        self._white = HDR_WHITE if picture.color_trc in HDR_TRANSFERS else 1.0
        strip_height = max(MIN_STRIP_PIXELS, round(self._size[0] * STRIP_PART)) // 2 * 2
        self._bar = _draw_bar(self._blocks, min(strip_height, self._size[0]), self._size[1])

    def __call__(self, frame: av.VideoFrame, seconds: float) -> av.VideoFrame:
        """Returns a picture of the size prepared for, as it looks at that time."""
        graph_input = (frame.width, frame.height, frame.format.name, frame.color_trc)
        if graph_input != self._graph_input:
            self._graph, self._graph_input = self._build(frame), graph_input
        tenth = int(seconds * TENTHS)
        if tenth != self._strip[0]:
            strip = _draw_words(self._bar, self._words_at(tenth / TENTHS))
            strip[..., :3] = strip[..., :3] * self._white
            self._strip = tenth, av.VideoFrame.from_ndarray(strip, format="rgba")
        strip = self._strip[1]
        strip.pts, strip.time_base = frame.pts, frame.time_base
        self._graph.push(frame, at=0)
        self._graph.push(strip, at=1)
        return self._graph.vpull()

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        height, width = self._size
        strip_height = self._bar.shape[0]
        time_base = frame.time_base or Fraction(1, 1000)
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=time_base
            )
        ]
        turns = quarter_turns(frame)
        nodes += [graph.add("transpose", "cclock") for _ in range(turns)]
        nodes += [graph.add("scale", f"{width}:{height}"), graph.add("format", "yuv420p")]
        graph.link_nodes(*nodes)
        strip = graph.add_buffer(
            width=width,
            height=strip_height,
            format=av.video.format.VideoFormat("rgba"),
            time_base=time_base,
        )
        overlay = graph.add("overlay", f"0:{height - strip_height}:eof_action=repeat")
        nodes[-1].link_to(overlay, 0, 0)
        strip.link_to(overlay, 0, 1)
        overlay.link_to(graph.add("buffersink"))
        graph.configure()
        return graph


def _draw_bar(blocks: Sequence[Block], height: int, width: int) -> np.ndarray:
    """Returns (height, width, 4) uint8 RGBA: the strip without words or mark."""
    strip = np.empty((height, width, 4), np.uint8)
    strip[:] = GROUND
    top, bottom = _bar_rows(height)
    for block in blocks:
        left, right = round(block.start * width), round(block.end * width)
        strip[top:bottom, left : max(right, left + 1), :3] = block.colour
        strip[top:bottom, left : max(right, left + 1), 3] = 255
        if block.is_striped:
            period = max(4, height // 8)
            dark = (np.arange(width) // (period // 2) % 2 == 0) & (np.arange(width) < right)
            dark &= np.arange(width) >= left
            strip[top:bottom, dark, :3] //= 2
    return strip


def _draw_words(bar: np.ndarray, words: Words) -> np.ndarray:
    """Returns the strip of one moment."""
    import cv2  # here, as 0.2 s is too long for those who draw nothing

    strip = bar.copy()
    height, width = strip.shape[:2]
    top, bottom = _bar_rows(height)
    letters = top * 0.52  # height of capitals, pixels
    thickness = max(1, round(letters / 9))
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = cv2.getFontScaleFromHeight(font, max(6, round(letters)), thickness)
    gap = max(4, top // 4)

    def size_of(text: str) -> tuple[int, int]:
        return cv2.getTextSize(text, font, scale, thickness)[0]

    def write(text: str, left: int, colour: tuple[int, ...]) -> None:
        baseline = (top + size_of("0")[1]) // 2
        place = (left, baseline)
        cv2.putText(strip, text, place, font, scale, colour, thickness, cv2.LINE_AA)

    badge_width = size_of(words.badge)[0] + 2 * gap
    strip[: top - max(1, top // 12), :badge_width] = (*words.colour, 255)
    write(words.badge, gap, BLACK)
    left = width - gap - size_of(words.words)[0]
    if left > badge_width + gap:  # else the picture is too narrow for both
        write(words.words, left, WHITE)
    half = max(1, height // 40)
    mark = round(words.position * (width - 1))
    strip[top - half : bottom, max(0, mark - 2 * half) : mark + 2 * half + 1] = BLACK
    strip[top - half : bottom, max(0, mark - half) : mark + half + 1] = WHITE
    return strip


def _bar_rows(height: int) -> tuple[int, int]:
    return round(height * 0.7), height
