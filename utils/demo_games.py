"""Play: made pictures of a game as its broadcast shows it, for the demo set."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from utils.demo_drawing import (
    BLACK,
    SUBPIXEL_BITS,
    WHITE,
    Colour,
    ink_on,
    mix,
    paint_ellipse,
    paint_text,
    subpixel,
)
from utils.demo_grounds import SKINS, Ground, Sport, Venue, camera_at, project

FRAMES_PER_SECOND = 25
_BODY = np.array(
    [  # across, up and swing of each joint, in heights of a player
        (0.05, 0, 0), (0, 0.45, 0), (0, 0.63, 0), (0, 0.92, 0), (0, 0.895, 0),
        (-0.05, 0.45, 0), (-0.05, 0.22, 0.6), (-0.05, 0, 1),
        (-0.09, 0.78, 0), (-0.15, 0.6, -0.3), (-0.14, 0.47, -1),
        (0.05, 0.45, 0), (0.05, 0.22, -0.6), (0.05, 0, -1),
        (0.09, 0.78, 0), (0.15, 0.6, 0.3), (0.14, 0.47, 1),
    ]
)  # fmt: skip
_LIMBS = np.array([(5, 6), (11, 12), (8, 9), (14, 15), (6, 7), (12, 13), (9, 10), (15, 16)])
_SHORTS, _SLEEVES, _BARE = slice(0, 2), slice(2, 4), slice(4, 8)


@dataclass(frozen=True)
class _Play:
    """Positions in metres over time: ball (T, 3), players (T, N, 2); steps (T, N) in radians."""

    ball: np.ndarray
    players: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class _Take:
    """What the director shows in frames [start, stop): play from frame `moment` on, at `speed`."""

    kind: str
    start: int
    stop: int
    moment: int
    speed: float = 1.0
    star: int = 0
    grip: float = 0.06


def draw_game(venue: Venue, n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields `n_frames` frames (180, 320, 3) uint8, RGB, 25 a second, of one stretch of play."""
    ground = Ground(venue, rng)
    play = _play(ground.sport, n_frames, rng)
    skins = [SKINS[i] for i in rng.integers(len(SKINS), size=play.players.shape[1])]
    clock_seconds = int(rng.integers(60, 2700))
    score = tuple(int(points) for points in rng.integers(0, 4, 2))
    sway = rng.uniform(0, 2 * np.pi, 3)
    for take in _takes(n_frames, play.players.shape[1], rng):
        look = _look(ground.sport, take, play, take.moment)
        for i in range(take.start, take.stop):
            moment = min(int(take.moment + (i - take.start) * take.speed), n_frames - 1)
            # The head of a broadcast camera is heavy: it lags behind what it follows, and sways.
            look += take.grip * (_look(ground.sport, take, play, moment) - look)
            shaken = look + 0.006 * look[2] * np.sin(i / np.array([17, 23, 41]) + sway)
            camera = _camera(ground.sport, take, shaken)
            frame = ground.film(camera, pose=i // 5)
            _paint_play(frame, ground, play, moment, camera, skins)
            if take.kind == "replay":
                _paint_label(frame, "REPLAY", (268, 18), venue.teams[0])
            _paint_score(frame, venue, score, clock_seconds + i // FRAMES_PER_SECOND)
            yield frame


def _takes(n_frames: int, n_players: int, rng: np.random.Generator) -> list[_Take]:
    """Returns the director's cuts: long wide takes, a close-up or a replay between them."""
    takes, start = [], 0
    while True:
        stop = start + int(rng.uniform(4, 8) * FRAMES_PER_SECOND)
        if n_frames - stop < 4 * FRAMES_PER_SECOND:
            return [*takes, _Take("wide", start, n_frames, start)]
        takes.append(_Take("wide", start, stop, start))
        start, stop = stop, stop + int(rng.uniform(1.5, 3) * FRAMES_PER_SECOND)
        if rng.random() < 0.5:
            takes.append(_Take("replay", start, stop, start - 50, speed=0.5))
        else:
            takes.append(
                _Take("close-up", start, stop, start, star=int(rng.integers(n_players)), grip=0.3)
            )
        start = stop


def _play(sport: Sport, n_frames: int, rng: np.random.Generator) -> _Play:
    """Returns a stretch of play in which all run towards the ball from places of their own."""
    ball = _ball_path(sport, n_frames, rng)
    n = sport.players
    size = np.array([sport.length, sport.width])
    homes = rng.uniform(0.08, 0.92, (2 * n, 2))
    along, pull = (1, (0.5, 0.04)) if sport.rally else (0, (0.6, 0.35))
    homes[:n, along] = rng.uniform(0.02, 0.4, n) if sport.rally else rng.uniform(0.05, 0.6, n)
    homes[n:, along] = 1 - homes[:n, along]
    homes *= size
    places, speed = homes.copy(), np.zeros_like(homes)
    steps = rng.uniform(0, 2 * np.pi, 2 * n)
    top_speed = 0.03 * size.max() ** 0.5  # metres a frame: the larger the ground, the longer runs
    players, all_steps = np.empty((n_frames, 2 * n, 2)), np.empty((n_frames, 2 * n))
    for i in range(n_frames):
        goal = homes + pull * (ball[i, :2] - homes)
        speed = 0.9 * speed + 0.01 * (goal - places) + rng.normal(0, 0.08 * top_speed, homes.shape)
        pace = np.linalg.norm(speed, axis=1)
        speed *= np.minimum(1, top_speed / np.maximum(pace, 1e-6))[:, None]
        places = places + speed
        steps = steps + 0.5 * np.minimum(1, pace / top_speed)
        players[i], all_steps[i] = places, steps
    return _Play(ball, players, all_steps)


def _ball_path(sport: Sport, n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (T, 3) metres: passes from point to point, or lobs from side to side in a rally."""
    path, here, far = np.empty((0, 3)), np.array([0.5, 0.2 if sport.rally else 0.5]), True
    while len(path) < n_frames:
        share = np.linspace(0, 1, int(rng.uniform(0.7, 1.3) * FRAMES_PER_SECOND), endpoint=False)
        if sport.rally:
            y = rng.uniform(0.75, 0.97)
            there, rise = np.array([rng.uniform(0.1, 0.9), y if far else 1 - y]), 0.12 * sport.width
            far = not far
        else:
            there, rise = np.clip(here + rng.normal(0, (0.2, 0.25)), 0.06, 0.94), 0.0
            if rng.random() < 0.4:
                rise = 2.5
        flat = (here + (there - here) * share[:, None]) * (sport.length, sport.width)
        path = np.vstack([path, np.column_stack([flat, 0.2 + 4 * rise * share * (1 - share)])])
        here = there
    return path[:n_frames]


def _look(sport: Sport, take: _Take, play: _Play, moment: int) -> np.ndarray:
    """Returns (x, y, width of the view) in metres that the operator of this take wants."""
    x, y, _ = play.ball[moment]
    if take.kind == "close-up":
        return np.array([*play.players[moment, take.star], 2.4 * sport.player_metres])
    if take.kind == "replay":
        return np.array([x, y, 0.45 * sport.view_metres])
    rush = abs(x / sport.length - 0.5)
    aim = (0.15 * sport.length + 0.7 * x, 0.44 * sport.width + 0.2 * y)
    return np.array([*aim, sport.view_metres * (1.1 - 0.5 * rush)])


def _camera(sport: Sport, take: _Take, look: np.ndarray) -> np.ndarray:
    x, y, view = look
    if take.kind == "close-up":
        height = 0.6 * sport.player_metres
        return camera_at((x, y - 6 * sport.player_metres, 1.6 * height), (x, y, height), view)
    if take.kind == "replay":
        return camera_at((x, y - 0.8 * sport.width, 0.2 * sport.width), (x, y, 1), view)
    eye = (sport.length / 2, -0.8 * sport.width, 0.42 * sport.width)
    return camera_at(eye, (x, y + 0.06 * sport.width, 0), view)


def _paint_play(
    frame: np.ndarray,
    ground: Ground,
    play: _Play,
    moment: int,
    camera: np.ndarray,
    skins: list[Colour],
) -> None:
    """Draws net, players and ball, the far ones first."""
    sport, venue = ground.sport, ground.venue
    feet = play.players[moment]
    pixels, scales = project(camera, np.column_stack([feet, np.zeros(len(feet))]))
    highs = scales * sport.player_metres
    joints = _joints(pixels, highs, play.steps[moment])
    shade = mix(venue.ground, BLACK, 0.4)
    net_waits = sport.rally
    for i in np.argsort(-feet[:, 1]):
        if net_waits and feet[i, 1] < sport.width / 2:
            _paint_net(frame, sport, camera)
            net_waits = False
        (x, y), high = pixels[i], highs[i]
        if -high < x < frame.shape[1] + high and 0 < y < frame.shape[0] + high:
            team = venue.teams[int(i >= sport.players)]
            _paint_player(frame, joints[i], high, (team, skins[i], shade))
            if high > 50:
                size = max(8, int(high * 0.16))
                paint_text(frame, str(i + 2), (x, y - 0.67 * high), size, ink_on(team))
    ball = play.ball[moment]
    (at, below), (scale, _) = project(camera, np.stack([ball, ball * (1, 1, 0)]))
    radius = max(1.3, scale * sport.ball_metres / 2)
    paint_ellipse(frame, below, (radius, radius / 2), shade)
    paint_ellipse(frame, at, (radius, radius), sport.ball)


def _joints(feet: np.ndarray, highs: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns (N, joints, 2) pixels of a runner's joints, in the order of `_BODY`."""
    swing = 0.13 * np.sin(steps)[:, None] * _BODY[:, 2]
    across = _BODY[:, 0] + swing
    up = _BODY[:, 1] + np.where(_BODY[:, 1] == 0, np.maximum(0, 0.4 * swing), 0)
    offsets = np.stack([across, -up], axis=-1) * highs[:, None, None]
    return feet[:, None] + offsets


def _paint_player(
    frame: np.ndarray, joints: np.ndarray, high: float, colours: tuple[Colour, Colour, Colour]
) -> None:
    shirt, skin, shade = colours
    shorts = mix(shirt, BLACK, 0.55)
    shadow, hip, chest, hair, face = joints[:5]
    limbs = subpixel(joints[_LIMBS])
    thick = max(1, round(0.075 * high))
    paint_ellipse(frame, shadow, (0.18 * high, 0.05 * high), shade)
    for picked, colour in ((_BARE, skin), (_SHORTS, shorts), (_SLEEVES, shirt)):
        cv2.polylines(frame, limbs[picked], False, colour, thick, cv2.LINE_AA, SUBPIXEL_BITS)
    paint_ellipse(frame, chest, (0.105 * high, 0.2 * high), shirt)
    if high > 24:  # below that, hips and hair are a pixel or two and cost a third of the drawing
        paint_ellipse(frame, hip, (0.095 * high, 0.07 * high), shorts)
        paint_ellipse(frame, hair, (0.065 * high, 0.085 * high), mix(skin, BLACK, 0.75))
    paint_ellipse(frame, face, (0.055 * high, 0.07 * high), skin)


def _paint_net(frame: np.ndarray, sport: Sport, camera: np.ndarray) -> None:
    top = 1.0 if sport.length > 10 else 2.3
    bottom = 0.0 if sport.length > 10 else 1.3
    across = np.linspace(-0.5, sport.length + 0.5, 40)
    middle = np.full(40, sport.width / 2)
    upper, _ = project(camera, np.column_stack([across, middle, np.full(40, top)]))
    lower, _ = project(camera, np.column_stack([across, middle, np.full(40, bottom)]))
    upper, lower = subpixel(upper), subpixel(lower)
    for above, below in zip(upper, lower, strict=True):
        cv2.line(frame, above, below, (90, 96, 104), 1, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.line(frame, upper[0], upper[-1], WHITE, 2, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.line(frame, lower[0], lower[-1], (150, 156, 164), 1, cv2.LINE_AA, SUBPIXEL_BITS)


def _paint_score(frame: np.ndarray, venue: Venue, score: tuple[int, int], clock: int) -> None:
    left, top = venue.score_at
    frame[top : top + 15, left : left + 128] = mix(venue.surround, BLACK, 0.8)
    for i, (name, team) in enumerate(zip(venue.names, venue.teams, strict=True)):
        start = left + 43 * i
        frame[top : top + 15, start : start + 3] = team
        paint_text(frame, f"{name}  {score[i]}", (start + 23, top + 7.5), 10, WHITE)
    _paint_label(frame, f"{clock // 60:02d}:{clock % 60:02d}", (left + 107, top + 7.5), WHITE)


def _paint_label(frame: np.ndarray, text: str, centre: tuple[float, float], colour: Colour) -> None:
    x, y = int(centre[0]), int(centre[1])
    half = 21 if len(text) < 6 else 30
    frame[y - 7 : y + 8, x - half : x + half] = colour
    paint_text(frame, text, centre, 10, ink_on(colour))
