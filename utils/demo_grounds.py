"""Grounds: made sports grounds with their stands, filmed by a camera, for the demo set."""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.demo_drawing import BLACK, FRAME_SIZE, WHITE, Colour, ink_on, mix, paint_text

SKINS = ((240, 205, 175), (222, 178, 140), (166, 112, 76), (110, 72, 50))
STAND_METRES = 14
STAND_PIXELS_PER_METRE = 14
SEAT_PIXELS = (11, 8)
BOARD_PIXELS = 16
BOARD_WORDS = ("ORBIT", "kivo", "TERRANO", "Lumen", "FIRST BANK", "nordo", "PAX AIR", "Bello")
CROWD_POSES = 4


@dataclass(frozen=True)
class Sport:
    """A ground of `length` x `width` metres (x, y) and how it is played; cameras stand at y < 0.

    `marks` are in metres: ("line" or "box", x0, y0, x1, y1), ("ring", x, y, radius) and
    ("arc", x, y, radius, from_degrees, to_degrees); each is drawn a second time mirrored in x.
    In a `rally` the ball crosses the net along y, with one team on either side.
    """

    length: float
    width: float
    players: int
    view_metres: float
    marks: tuple[tuple, ...]
    ball_metres: float = 0.45
    ball: Colour = WHITE
    player_metres: float = 2.0
    stripes: int = 0
    rally: bool = False


SPORTS = {
    "football": Sport(
        105, 68, 9, 46, stripes=14, ball_metres=0.7, player_metres=3.2,
        marks=(
            ("box", 0, 0, 105, 68), ("line", 52.5, 0, 52.5, 68), ("ring", 52.5, 34, 9.15),
            ("box", 0, 13.8, 16.5, 54.2), ("box", 0, 24.8, 5.5, 43.2),
            ("arc", 11, 34, 9.15, -53, 53), ("ring", 52.5, 34, 0.4),
        ),
    ),
    "basketball": Sport(
        28, 15, 5, 17, ball=(214, 92, 30), ball_metres=0.4,
        marks=(
            ("box", 0, 0, 28, 15), ("line", 14, 0, 14, 15), ("ring", 14, 7.5, 1.8),
            ("box", 0, 5.05, 5.8, 9.95), ("arc", 5.8, 7.5, 1.8, -90, 90),
            ("arc", 1.6, 7.5, 6.75, -78, 78),
        ),
    ),
    "hockey": Sport(
        60, 30, 6, 30, ball=BLACK, ball_metres=0.4, player_metres=2.4,
        marks=(
            ("box", 0, 0, 60, 30), ("line", 30, 0, 30, 30), ("line", 22, 0, 22, 30),
            ("line", 4, 0, 4, 30), ("ring", 30, 15, 4.5), ("ring", 11, 7.5, 4.5),
            ("ring", 11, 22.5, 4.5), ("ring", 49, 7.5, 4.5), ("ring", 49, 22.5, 4.5),
        ),
    ),
    "handball": Sport(
        40, 20, 6, 23, ball=(250, 214, 60), ball_metres=0.45, player_metres=2.2,
        marks=(
            ("box", 0, 0, 40, 20), ("line", 20, 0, 20, 20), ("arc", 0, 10, 6.5, -90, 90),
            ("arc", 0, 10, 9.5, -90, 90), ("line", 7, 9.5, 7, 10.5), ("ring", 20, 10, 2),
        ),
    ),
    "tennis": Sport(
        11, 23.8, 1, 19, rally=True, ball=(226, 240, 70), ball_metres=0.35,
        marks=(
            ("box", 0, 0, 11, 23.8), ("line", 1.4, 0, 1.4, 23.8), ("line", 1.4, 5.5, 9.6, 5.5),
            ("line", 1.4, 18.3, 9.6, 18.3), ("line", 5.5, 5.5, 5.5, 18.3),
        ),
    ),
    "volleyball": Sport(
        9, 18, 5, 17, rally=True, ball=(250, 226, 110), ball_metres=0.45,
        marks=(
            ("box", 0, 0, 9, 18), ("line", 0, 6, 9, 6), ("line", 0, 12, 9, 12),
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Venue:
    """Where a game is played and between whom; `light` dims the stand for a night game."""

    sport: str
    ground: Colour
    surround: Colour
    teams: tuple[Colour, Colour]
    names: tuple[str, str]
    lines: Colour = WHITE
    light: float = 1.0
    score_at: tuple[int, int] = (8, 8)


class Ground:
    """The ground of a venue with its stand, ready to be filmed."""

    def __init__(self, venue: Venue, rng: np.random.Generator):
        self.venue = venue
        self.sport = SPORTS[venue.sport]
        self.margin = 1.5 + 0.07 * (self.sport.length + self.sport.width) / 2
        self.scale = 1100 / (self.sport.length + self.sport.width)  # pixels a metre
        self._backdrop = np.full((*FRAME_SIZE, 3), mix(venue.surround, BLACK, 0.8), np.uint8)
        self._floor = self._draw_floor(rng)
        self._stands = self._draw_stands(rng)

    def film(self, camera: np.ndarray, pose: int = 0) -> np.ndarray:
        """Returns (180, 320, 3) uint8 RGB seen by a (3, 4) camera; `pose` moves the crowd."""
        frame = self._backdrop.copy()
        back, left = self.sport.width + self.margin, -4 * self.margin - 10
        foot = np.array([(left, back, 0), (self.sport.length - left, back, 0)])
        rows = np.clip(project(camera, foot)[0][:, 1], 0, FRAME_SIZE[0]).astype(int)
        stand = self._stands[pose % CROWD_POSES]
        metres = 1 / STAND_PIXELS_PER_METRE
        place = np.array([[metres, 0, left], [0, 0, back], [0, -metres, len(stand) * metres]])
        _warp_into(frame, stand, camera, place, (0, rows.max() + 2))
        metres = 1 / self.scale
        place = np.array([[metres, 0, -self.margin], [0, metres, -self.margin], [0, 0, 0]])
        _warp_into(frame, self._floor, camera, place, (rows.min() - 2, FRAME_SIZE[0]))
        return frame

    def _draw_floor(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the floor from above, margin included, one row of pixels for each step in y."""
        sport, venue = self.sport, self.venue
        height = round((sport.width + 2 * self.margin) * self.scale)
        width = round((sport.length + 2 * self.margin) * self.scale)
        floor = np.empty((height, width, 3), np.uint8)
        floor[:] = venue.surround
        cv2.rectangle(floor, self._at(0, 0), self._at(sport.length, sport.width), venue.ground, -1)
        edges = np.linspace(0, sport.length, sport.stripes + 1)
        for start, stop in zip(edges[:-1:2], edges[1::2], strict=False):
            shade = mix(venue.ground, WHITE, 0.1)
            cv2.rectangle(floor, self._at(start, 0), self._at(stop, sport.width), shade, -1)
        grain = cv2.resize(rng.normal(0, 6, (height // 3, width // 3)), (width, height))
        floor = np.clip(floor + grain[..., None], 0, 255).astype(np.uint8)
        for mark in sport.marks:
            self._draw_mark(floor, mark)
        return floor

    def _draw_mark(self, floor: np.ndarray, mark: tuple) -> None:
        kind, *metres = mark
        thick = max(2, round(self.scale * self.sport.view_metres / 150))
        for mirrored in (False, True):
            xs = [self.sport.length - x if mirrored else x for x in metres[0:3:2]]
            if kind in ("line", "box"):
                draw = cv2.line if kind == "line" else cv2.rectangle
                first, second = self._at(xs[0], metres[1]), self._at(xs[1], metres[3])
                draw(floor, first, second, self.venue.lines, thick, cv2.LINE_AA)
            else:
                _, y, radius, *ends = metres
                begin, end = ends or (0, 360)
                axes = (round(radius * self.scale),) * 2
                cv2.ellipse(
                    floor, self._at(xs[0], y), axes, 180 * mirrored, begin, end,
                    self.venue.lines, thick, cv2.LINE_AA,
                )  # fmt: skip

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round((x + self.margin) * self.scale), round((y + self.margin) * self.scale)

    def _draw_stands(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns `CROWD_POSES` pictures of the stand, every head bobbing in its own time."""
        high, wide = SEAT_PIXELS
        length = self.sport.length + 8 * self.margin + 20
        seats = (
            int(STAND_METRES * STAND_PIXELS_PER_METRE / high),
            int(length * STAND_PIXELS_PER_METRE / wide),
        )
        wear = np.array([*self.venue.teams, self.venue.surround, (60, 60, 70), (205, 200, 195)])
        shirts = wear[rng.choice(len(wear), seats, p=(0.22, 0.22, 0.16, 0.25, 0.15))]
        dim = np.linspace(0.5, 1, seats[0])[:, None, None] * self.venue.light
        shirts = shirts * rng.uniform(0.5, 0.95, (*seats, 1)) * dim
        faces = np.array(SKINS)[rng.integers(len(SKINS), size=seats)] * 0.8 * dim
        shadow = np.full_like(faces, 34 * self.venue.light)
        colours = np.stack([shadow, shirts, faces], axis=2).astype(np.uint8).reshape(-1, 3)
        first = 3 * np.arange(seats[0] * seats[1]).reshape(seats)[:, None, :, None]
        bob = rng.uniform(0, 2 * np.pi, seats)
        column = np.arange(wide)
        poses = []
        for pose in range(CROWD_POSES):
            rise = np.rint(1.4 * np.sin(bob + pose * np.pi / 2)).astype(int)
            row = np.arange(high)[:, None, None] + rise[:, None, :, None]
            face = (row >= 1) & (row < 5) & (column >= 2) & (column < 6)
            shirt = (row >= 5) & (column >= 1) & (column < 7)
            stand = colours[first + shirt + 2 * face].reshape(seats[0] * high, -1, 3)
            poses.append(np.vstack([stand, self._draw_boards(stand.shape[1])]))
        return poses

    def _draw_boards(self, width: int) -> np.ndarray:
        boards = np.empty((BOARD_PIXELS, width, 3), np.uint8)
        colours = (self.venue.teams[0], WHITE, mix(self.venue.surround, BLACK, 0.5))
        for i, left in enumerate(range(0, width, 110)):
            colour = colours[i % len(colours)]
            boards[:, left : left + 110] = colour
            word = BOARD_WORDS[i % len(BOARD_WORDS)]
            paint_text(boards, word, (left + 55, BOARD_PIXELS / 2), 14, ink_on(colour))
        return boards


def camera_at(
    eye: tuple[float, float, float], aim: tuple[float, float, float], view_metres: float
) -> np.ndarray:
    """Returns (3, 4): (x, y, z, 1) in metres to homogeneous pixels; the view is wide at the aim."""
    ahead = np.asarray(aim, float) - eye
    distance = np.linalg.norm(ahead)
    ahead /= distance
    right = np.array([ahead[1], -ahead[0], 0]) / np.hypot(ahead[0], ahead[1])
    turn = np.stack([right, np.cross(ahead, right), ahead])
    height, width = FRAME_SIZE
    focal = width * distance / view_metres
    lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return lens @ turn @ np.hstack([np.eye(3), -np.asarray(eye, float)[:, None]])


def project(camera: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (N, 2) of points (N, 3) in metres, and the pixels a metre is there (N,)."""
    seen = np.hstack([points, np.ones((len(points), 1))]) @ camera.T
    depth = np.maximum(seen[:, 2], 0.1)
    return seen[:, :2] / depth[:, None], np.linalg.norm(camera[0, :3]) / depth


def _warp_into(
    frame: np.ndarray,
    plane: np.ndarray,
    camera: np.ndarray,
    place: np.ndarray,
    rows: tuple[int, int],
) -> None:
    """Draws a plane into rows [first, last); `place` takes (column, row, 1) of it to metres."""
    first, last = max(0, rows[0]), min(len(frame), rows[1])
    if first >= last:
        return
    up = np.array([[1, 0, 0], [0, 1, -first], [0, 0, 1]])
    part = frame[first:last]
    cv2.warpPerspective(
        plane, up @ camera @ np.vstack([place, [0, 0, 1]]), part.shape[1::-1], dst=part,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT,
    )  # fmt: skip
