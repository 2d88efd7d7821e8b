"""Spots: made pictures of an advertisement, cut in shots, for the demo set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from utils.demo_drawing import (
    BLACK,
    FRAME_SIZE,
    WHITE,
    Colour,
    fitting_size,
    gradient,
    ink_on,
    mix,
    paint_ellipse,
    paint_polygon,
    paint_sprite,
    paint_text,
)
from utils.demo_games import FRAMES_PER_SECOND
from utils.demo_grounds import SKINS, Ground, Venue, camera_at
from utils.demo_products import Colours, draw_person, draw_product

BACKDROP_SIZE = (260, 460)  # larger than the frame, so that the camera has room to move over it
END_CARD_SECONDS = 2.2
CLAIMS = ("NEW", "NOW", "-30%", "TODAY ONLY", "FEEL IT", "GO!", "2 for 1", "YES.", "MORE", "WOW")


@dataclass(frozen=True)
class Campaign:
    """What is sold, in which colours, and how fast the spot is cut; `venue` adds sports shots."""

    brand: str
    slogan: str
    price: str
    product: str
    colours: Colours
    shot_seconds: tuple[float, float] = (0.6, 1.4)
    venue: Venue | None = None


Shot = Callable[[Campaign, int, np.random.Generator], Iterator[np.ndarray]]


def draw_ad(campaign: Campaign, n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields `n_frames` frames (180, 320, 3) uint8, RGB, 25 a second, of one spot."""
    n_end = int(END_CARD_SECONDS * FRAMES_PER_SECOND)
    kinds = [_product_shot, _product_shot, _claim_shot, _price_shot, _person_shot, _grid_shot]
    if campaign.venue:
        kinds += [_ground_shot, _ground_shot]
    shown, last, previous = 0, None, None
    while shown < n_frames:
        n = int(rng.uniform(*campaign.shot_seconds) * FRAMES_PER_SECOND)
        shot = previous
        while shot is previous:
            shot = kinds[int(rng.integers(len(kinds)))]
        if n_frames - shown < n_end + n:
            shot, n = _end_card, n_frames - shown
        blend = _blend(campaign, rng)
        for i, frame in enumerate(shot(campaign, n, rng)):
            if last is not None and i < len(blend):
                frame = cv2.addWeighted(frame, 1 - blend[i], last, blend[i], 0)
            yield frame
        last, previous, shown = frame.copy(), shot, shown + n


def _blend(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    """Returns the share of the shot before in the first frames of a shot; empty for a hard cut."""
    slow = campaign.shot_seconds[0] > 1
    return (
        np.linspace(0.9, 0, 10 if slow else 4) if rng.random() < 0.3 + 0.4 * slow else np.empty(0)
    )


def _product_shot(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    sprite = _product(campaign)
    side = rng.choice((-1, 1))
    x, word_x = 160 + 55 * side, 160 - 80 * side
    grows, turns = rng.uniform(-0.25, 0.35), rng.uniform(-14, 14)
    size = rng.uniform(0.65, 0.95)
    word = str(rng.choice((campaign.brand, *CLAIMS)))
    text_size = fitting_size(word, 34, 140)
    for u, frame in _moving_backdrop(campaign, n_frames, rng):
        paint_ellipse(frame, (x, 168), (60 * size, 7), mix(campaign.colours[0], BLACK, 0.6))
        paint_sprite(frame, sprite, (x, 92), size * (1 + grows * u), turns * (u - 0.3))
        slide = (1 - _ease(u / 0.3)) * -200 * side
        paint_text(frame, word, (word_x + slide + 2, 92), text_size, BLACK, opacity=0.4)
        paint_text(frame, word, (word_x + slide, 90), text_size, WHITE)
        yield frame


def _claim_shot(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    ground = campaign.colours[int(rng.integers(3))]
    words = [campaign.brand, *rng.choice(CLAIMS, 2, replace=False)]
    rng.shuffle(words)
    backdrop = gradient(FRAME_SIZE, ground, mix(ground, BLACK, 0.35), rng.uniform(0, 360))
    ink = ink_on(ground)
    bar = mix(campaign.colours[2], WHITE, 0.1)
    for i in range(n_frames):
        frame, u = backdrop.copy(), i / n_frames
        cv2.rectangle(frame, (0, 152), (int(320 * _ease(u * 1.4)), 160), bar, -1)
        for k, word in enumerate(words):
            pop = _ease((u - 0.22 * k) / 0.2)
            if pop > 0:
                size = int(fitting_size(word, 46, 270) * (1.5 - 0.5 * pop) * (1 + 0.08 * u))
                paint_text(frame, word, (160, 32 + 46 * k), size, ink, opacity=pop)
        yield frame


def _price_shot(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    sprite = _product(campaign)
    burst = campaign.colours[2]
    spins = rng.uniform(-60, 60)
    for u, frame in _moving_backdrop(campaign, n_frames, rng):
        paint_sprite(frame, sprite, (90, 95), 0.75 + 0.1 * u, -8)
        pop = _ease(u / 0.25) * (1 + 0.05 * np.sin(u * 25))
        _star(frame, (222, 88), 78 * pop, spins * u, mix(burst, BLACK, 0.3))
        _star(frame, (222, 86), 72 * pop, spins * u, burst)
        size = int(fitting_size(campaign.price, 34, 92) * max(0.2, pop))
        paint_text(frame, "ONLY", (222, 60), 13, ink_on(burst))
        paint_text(frame, campaign.price, (222, 88), size, ink_on(burst))
        yield frame


def _person_shot(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    sprite = draw_person(campaign.colours, SKINS[int(rng.integers(len(SKINS)))], rng)
    product = _product(campaign)
    x, size = rng.uniform(110, 210), rng.uniform(0.85, 1.25)
    talks = rng.uniform(5, 9)
    for u, frame in _moving_backdrop(campaign, n_frames, rng):
        sway = 4 * np.sin(u * 5)
        centre = (x + sway, 200 - 80 * size + 2 * np.sin(u * 11))
        paint_sprite(frame, sprite, centre, size * (1 + 0.08 * u), 2 * np.sin(u * 4))
        opening = 2 + 6 * abs(np.sin(u * talks * n_frames / FRAMES_PER_SECOND))
        mouth = (centre[0], centre[1] + 5 * size)
        paint_ellipse(frame, mouth, (11 * size, opening * size), (150, 40, 48))
        lifted = 150 - 50 * _ease(u / 0.5)
        paint_sprite(frame, product, (x + (90 if x < 160 else -90), lifted), 0.42, 10 * u)
        yield frame


def _grid_shot(campaign: Campaign, n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Returns a wall of products that light up in turn."""
    sprite = _product(campaign)
    columns = int(rng.integers(2, 5))
    tints = [campaign.colours[int(i)] for i in rng.integers(3, size=columns * 2)]
    for i in range(n_frames):
        frame = np.empty((*FRAME_SIZE, 3), np.uint8)
        lit = (i // 5) % len(tints)
        for k, tint in enumerate(tints):
            left, top = 320 * (k % columns) // columns, 90 * (k // columns)
            right = 320 * (k % columns + 1) // columns
            share = 0.45 if k == lit else -0.1
            cv2.rectangle(frame, (left, top), (right, top + 90), mix(tint, WHITE, share), -1)
            paint_text(frame, campaign.price, ((left + right) / 2, top + 78), 12, ink_on(tint))
        for k in range(len(tints)):
            centre = (320 * (k % columns + 0.5) / columns, 90 * (k // columns) + 38)
            scale = 0.36 + 0.06 * (k == lit)
            area = frame[90 * (k // columns) : 90 * (k // columns) + 90]
            paint_sprite(area, sprite, (centre[0], 38), scale, 3 * np.sin(i / 4 + k))
        yield frame


def _ground_shot(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Returns a low crane shot over an empty sports ground: green alone must not mean a game."""
    ground = _ground(campaign.venue)
    sport = ground.sport
    drift, x = rng.choice((-1, 1)), rng.uniform(0.35, 0.65)
    product = _product(campaign)
    for i in range(n_frames):
        u = i / n_frames
        at = sport.length * (x + 0.06 * drift * u)
        eye = (at, -0.25 * sport.width, (0.14 + 0.05 * u) * sport.width)
        aim = (at, 0.5 * sport.width, 0)
        frame = ground.film(camera_at(eye, aim, sport.view_metres * (0.6 - 0.1 * u)))
        paint_sprite(frame, product, (160, 108), 0.6 + 0.25 * u, 8 * drift * u)
        yield frame


def _product(campaign: Campaign) -> np.ndarray:
    return draw_product(campaign.product, campaign.brand, campaign.colours)


@lru_cache(maxsize=1)
def _ground(venue: Venue) -> Ground:
    return Ground(venue, np.random.default_rng(0))


def _end_card(campaign: Campaign, n_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    main, second, accent = campaign.colours
    ink = ink_on(main)
    backdrop = gradient(FRAME_SIZE, mix(main, WHITE, 0.12), mix(main, BLACK, 0.3), 90)
    slogan = fitting_size(campaign.slogan, 18, 280)
    for i in range(n_frames):
        frame, u = backdrop.copy(), i / n_frames
        pop = _ease(u / 0.2)
        paint_ellipse(frame, (160, 58), (30 * pop, 30 * pop), accent)
        paint_ellipse(frame, (160 + 9 * pop, 52), (15 * pop, 15 * pop), second)
        size = fitting_size(campaign.brand, 38, 260)
        paint_text(frame, campaign.brand, (160, 112), size, ink, opacity=pop)
        opacity = _ease((u - 0.3) / 0.2)
        paint_text(frame, campaign.slogan, (160, 145), slogan, ink, opacity=opacity)
        paint_text(frame, f"www.{campaign.brand.lower()}.example", (160, 167), 10, ink, opacity=0.8)
        yield frame


def _moving_backdrop(
    campaign: Campaign, n_frames: int, rng: np.random.Generator
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (share of the shot gone by, new frame) as a camera drifts over one backdrop."""
    backdrop = BACKDROPS[int(rng.integers(len(BACKDROPS)))](campaign, rng)
    centre = (BACKDROP_SIZE[1] / 2, BACKDROP_SIZE[0] / 2)
    zooms, turns = rng.uniform(0.95, 1.5, 2), rng.uniform(-3, 3)
    drift = rng.uniform(-25, 25, 2)
    for i in range(n_frames):
        u = i / n_frames
        lens = cv2.getRotationMatrix2D(centre, turns * u, zooms[0] + (zooms[1] - zooms[0]) * u)
        lens[:, 2] += np.array([160, 90]) - centre + drift * (u - 0.5)
        yield u, cv2.warpAffine(backdrop, lens, FRAME_SIZE[::-1], borderMode=cv2.BORDER_REFLECT)


def _plain(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    first, second = rng.permutation(3)[:2]
    colours = campaign.colours
    return gradient(BACKDROP_SIZE, colours[first], colours[second], rng.uniform(0, 360))


def _rays(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.indices(BACKDROP_SIZE)
    angle = np.arctan2(rows - BACKDROP_SIZE[0] / 2, columns - BACKDROP_SIZE[1] / 2)
    light = (np.sin(angle * int(rng.integers(8, 16))) * 4).clip(0, 1)[..., None]
    main = np.array(campaign.colours[int(rng.integers(2))])
    return (main + (np.array(mix(tuple(main), WHITE, 0.35)) - main) * light).astype(np.uint8)


def _bokeh(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    picture = gradient(
        BACKDROP_SIZE,
        mix(campaign.colours[0], BLACK, 0.5),
        campaign.colours[1],
        rng.uniform(0, 360),
    )
    glow = picture.copy()
    for _ in range(40):
        at = (rng.uniform(0, BACKDROP_SIZE[1]), rng.uniform(0, BACKDROP_SIZE[0]))
        tint = mix(campaign.colours[int(rng.integers(3))], WHITE, rng.uniform(0, 0.6))
        radius = rng.uniform(4, 26)
        paint_ellipse(glow, at, (radius, radius), tint)
    return cv2.addWeighted(picture, 0.45, glow, 0.55, 0)


def _dots(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    first, second = rng.permutation(3)[:2]
    rows, columns = np.indices(BACKDROP_SIZE)
    pitch = rng.uniform(14, 26)
    height = np.cos(rows * 2 * np.pi / pitch) * np.cos(columns * 2 * np.pi / pitch)
    dots = ((height - 1.2 + columns / 300) * 8).clip(0, 1)[..., None]
    base, ink = (np.array(campaign.colours[i]) for i in (first, second))
    return (base + (ink - base) * dots).astype(np.uint8)


def _skyline(campaign: Campaign, rng: np.random.Generator) -> np.ndarray:
    main, second, accent = campaign.colours
    picture = gradient(BACKDROP_SIZE, mix(second, WHITE, 0.4), mix(main, WHITE, 0.15), 90)
    paint_ellipse(picture, (rng.uniform(150, 310), 110), (34, 34), mix(accent, WHITE, 0.35))
    for share, low in ((0.25, 120), (0.5, 150)):
        left = 0
        while left < BACKDROP_SIZE[1]:
            wide, top = int(rng.uniform(18, 46)), int(low + rng.uniform(-45, 20))
            corner = (left + wide, BACKDROP_SIZE[0])
            cv2.rectangle(picture, (left, top), corner, mix(main, BLACK, share), -1)
            left += wide
    return picture


BACKDROPS = (_plain, _rays, _bokeh, _dots, _skyline)


def _star(
    frame: np.ndarray, centre: tuple[int, int], radius: float, turn: float, colour: Colour
) -> None:
    angles = np.radians(turn) + np.arange(28) * np.pi / 14
    radii = np.where(np.arange(28) % 2, 0.8, 1.0) * radius
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre
    paint_polygon(frame, corners, colour)


def _ease(share: float) -> float:
    share = min(1.0, max(0.0, share))
    return share * share * (3 - 2 * share)
