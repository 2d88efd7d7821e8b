"""Page: answers of a search as one HTML file, its pictures in it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from utils.files import write_whole

TEMPLATES = Path(__file__).with_name("templates")
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Line:
    """One place of a card: a recording, when, and what is said of it."""

    recording: str
    when: str
    note: str = ""


@dataclass(frozen=True)
class Card:
    """Pictures with a title and the places they are from; `score` in 0..1 is drawn as a bar."""

    title: str
    pictures: np.ndarray  # (n, h, w, 3) uint8 RGB
    lines: tuple[Line, ...]
    label: str | None = None
    score: float | None = None


def write_page(
    path: Path, *, title: str, lead: str, cards: Sequence[Card], asked: Card | None = None
) -> None:
    """Writes a page that needs nothing from anywhere else, whole or not at all."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # file names are the user's: none may become markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["urls"] = _data_urls
    html = environment.get_template("page.html.j2").render(
        title=title, lead=lead, cards=cards, asked=asked
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name may hold bytes that are no UTF-8; they show as "?".
    write_whole(path, html.encode("utf-8", errors="replace"))


def _data_urls(pictures: np.ndarray) -> list[str]:
    urls = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
        urls.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return urls
