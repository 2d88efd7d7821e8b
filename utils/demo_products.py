"""Products: made pictures of what spots sell, and of those who hold it up, for the demo set."""

import numpy as np

from utils.demo_drawing import (
    BLACK,
    WHITE,
    Colour,
    fitting_size,
    gradient,
    ink_on,
    mix,
    paint_ellipse,
    paint_polygon,
    paint_text,
)

SPRITE_PIXELS = 200

Colours = tuple[Colour, Colour, Colour]
# A sprite, and where its label goes: centre, width in pixels, ink.
Unlabelled = tuple[np.ndarray, tuple[int, int], int, Colour]


def draw_product(product: str, brand: str, colours: Colours) -> np.ndarray:
    """Returns (200, 200, 4) uint8, RGB premultiplied by alpha, of one of `PRODUCTS`."""
    sprite, label_at, label_width, ink = PRODUCTS[product](colours)
    paint_text(sprite[..., :3], brand, label_at, fitting_size(brand, 26, label_width), ink)
    light = np.interp(np.arange(SPRITE_PIXELS), (0, 60, 80, 200), (0.85, 1.0, 1.0, 0.65))
    sprite[..., :3] = sprite[..., :3] * light[:, None]
    return sprite


def draw_person(colours: Colours, skin: Colour, rng: np.random.Generator) -> np.ndarray:
    """Returns (200, 200, 4) uint8, RGB premultiplied by alpha, head and shoulders, no mouth."""
    hair = ((40, 28, 22), (96, 60, 30), (214, 172, 96), (70, 70, 76))[int(rng.integers(4))]
    sprite = _blank()
    if rng.random() < 0.5:
        paint_ellipse(sprite, (100, 84), (48, 66), hair)
    paint_ellipse(sprite, (100, 196), (84, 62), colours[int(rng.integers(1, 3))])
    paint_polygon(sprite, [(84, 108), (116, 108), (118, 146), (82, 146)], mix(skin, BLACK, 0.15))
    paint_ellipse(sprite, (100, 68), (40, 46), hair)
    paint_ellipse(sprite, (100, 80), (34, 42), skin)
    for x in (87, 113):
        paint_ellipse(sprite, (x, 76), (6, 5), WHITE)
        paint_ellipse(sprite, (x, 76), (3, 3), BLACK)
    paint_polygon(sprite, [(100, 78), (106, 94), (97, 94)], mix(skin, BLACK, 0.15))
    return sprite


def _bottle(colours: Colours) -> Unlabelled:
    main, second, accent = colours
    sprite = _blank()
    glass = mix(main, BLACK, 0.25)
    outline = [
        (86, 14), (114, 14), (114, 60), (134, 90),
        (134, 188), (66, 188), (66, 90), (86, 60),
    ]  # fmt: skip
    paint_polygon(sprite, outline, glass)
    paint_polygon(sprite, [(84, 6), (116, 6), (116, 24), (84, 24)], accent)
    paint_polygon(sprite, [(66, 100), (134, 100), (134, 160), (66, 160)], WHITE)
    return sprite, (100, 130), 62, mix(second, BLACK, 0.3)


def _phone(colours: Colours) -> Unlabelled:
    sprite = _blank()
    outline = [
        (58, 6), (142, 6), (148, 14), (148, 186),
        (142, 194), (58, 194), (52, 186), (52, 14),
    ]  # fmt: skip
    paint_polygon(sprite, outline, BLACK)
    screen = gradient((164, 84), colours[1], colours[2], 60)
    sprite[18:182, 58:142, :3] = screen
    for k in range(9):
        x, y = 68 + 24 * (k % 3), 76 + 26 * (k // 3)
        paint_polygon(sprite, [(x, y), (x + 16, y), (x + 16, y + 16), (x, y + 16)], WHITE)
    return sprite, (100, 48), 72, WHITE


def _shoe(colours: Colours) -> Unlabelled:
    main, second, accent = colours
    sprite = _blank()
    outline = [
        (20, 78), (62, 66), (80, 92), (128, 108),
        (180, 122), (190, 142), (190, 152), (16, 152),
    ]  # fmt: skip
    paint_polygon(sprite, outline, accent)
    paint_polygon(sprite, [(14, 148), (192, 148), (194, 162), (176, 168), (16, 168)], WHITE)
    for k in range(4):
        x = 72 + 18 * k
        paint_polygon(
            sprite, [(x, 90 + 6 * k), (x + 8, 92 + 6 * k), (x - 8, 148), (x - 18, 148)], main
        )
    paint_polygon(sprite, [(20, 78), (62, 66), (66, 74), (22, 88)], mix(second, BLACK, 0.3))
    return sprite, (46, 120), 46, ink_on(accent)


def _car(colours: Colours) -> Unlabelled:
    main, _, accent = colours
    sprite = _blank()
    outline = [
        (6, 110), (38, 100), (66, 70), (130, 70),
        (160, 100), (192, 108), (196, 138), (4, 138),
    ]  # fmt: skip
    paint_polygon(sprite, outline, accent)
    paint_polygon(sprite, [(50, 100), (70, 77), (96, 77), (96, 100)], mix(main, WHITE, 0.6))
    paint_polygon(sprite, [(102, 100), (102, 77), (126, 77), (148, 100)], mix(main, WHITE, 0.6))
    for x in (48, 152):
        paint_ellipse(sprite, (x, 138), (20, 20), BLACK)
        paint_ellipse(sprite, (x, 138), (10, 10), (200, 200, 206))
    return sprite, (100, 120), 50, ink_on(accent)


def _cup(colours: Colours) -> Unlabelled:
    main, _, accent = colours
    sprite = _blank()
    paint_polygon(sprite, [(54, 44), (146, 44), (130, 186), (70, 186)], WHITE)
    paint_polygon(sprite, [(59, 84), (141, 84), (135, 146), (65, 146)], accent)
    paint_polygon(sprite, [(48, 32), (152, 32), (150, 50), (50, 50)], mix(main, BLACK, 0.5))
    paint_polygon(sprite, [(62, 22), (138, 22), (142, 34), (58, 34)], mix(main, BLACK, 0.4))
    return sprite, (100, 115), 62, ink_on(accent)


def _flacon(colours: Colours) -> Unlabelled:
    main, second, accent = colours
    sprite = _blank()
    outline = [
        (44, 66), (156, 66), (164, 80), (164, 178),
        (152, 188), (48, 188), (36, 178), (36, 80),
    ]  # fmt: skip
    paint_polygon(sprite, outline, mix(second, WHITE, 0.35))
    paint_polygon(sprite, [(54, 92), (146, 92), (150, 174), (50, 174)], mix(main, WHITE, 0.2))
    paint_polygon(sprite, [(80, 22), (120, 22), (120, 66), (80, 66)], accent)
    return sprite, (100, 134), 84, ink_on(main)


PRODUCTS = {
    "bottle": _bottle,
    "phone": _phone,
    "shoe": _shoe,
    "car": _car,
    "cup": _cup,
    "flacon": _flacon,
}


def _blank() -> np.ndarray:
    return np.zeros((SPRITE_PIXELS, SPRITE_PIXELS, 4), np.uint8)
