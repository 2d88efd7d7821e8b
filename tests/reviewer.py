"""A reviewer: what a person's hands do at the review page, and what the page shows them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What was done shows in the next picture that the browser draws, not before.
EDGES = """
() => new Promise(requestAnimationFrame).then(() =>
  [...document.querySelectorAll("[role=slider][data-test=edge]")]
    .map((edge) => Number(edge.getAttribute("aria-valuenow"))))
"""
STEPS = (("Alt+", 1.0), ("Shift+", 0.1))  # that a nudge moves an edge by, besides one picture
SAVED = re.compile(r"^saved", re.IGNORECASE)


@dataclass(frozen=True)
class Reviewer:
    """Somebody at a page of Playwright that shows a recording's review."""

    page: object
    duration_seconds: float
    frame_seconds: float

    def edges(self) -> list[float]:
        """Where the page says that edges are, in seconds, once all that was done is shown."""
        return sorted(self.page.evaluate(EDGES))

    def labels(self) -> list[str]:
        """What the rows of the list of segments say, one after another."""
        return self.page.locator("[data-test=segment-list] [data-label]").evaluate_all(
            "(all) => all.map((e) => e.dataset.label)"
        )

    def place(self, seconds: float) -> tuple[float, float]:
        """Where that moment is on the strip that shows all of the recording, in CSS pixels."""
        box = self.page.locator("[data-test=strip]").bounding_box()
        edge = self.page.locator("[data-test=edge]").first.bounding_box()
        share = seconds / self.duration_seconds
        return box["x"] + share * box["width"], edge["y"] + edge["height"] / 2

    def seek(self, seconds: float) -> None:
        """A click on the strip."""
        self.page.mouse.click(*self.place(seconds))

    def drag(self, start: float, end: float) -> None:
        """Moves what is there from one moment to another, in steps as a hand does."""
        self.page.mouse.move(*self.place(start))
        self.page.mouse.down()
        for share in (0.25, 0.5, 0.75, 1.0):
            self.page.mouse.move(*self.place(start + share * (end - start)))
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def wait_until_saved(self) -> None:
        self.page.locator("[data-test=save-state]").filter(has_text=SAVED).wait_for()

    def correct_edges(self, truth: Sequence[float]) -> None:
        """Brings each edge to its true place by keys alone, the first one first."""
        self.press("Home")
        for number, wanted in enumerate(truth):
            self.press("]")
            away = wanted - self.edges()[number]
            for modifier, step in (*STEPS, ("", self.frame_seconds)):
                count = round(abs(away) / step) if not modifier else int(abs(away) / step + 1e-6)
                self.press(*[modifier + ("Period" if away > 0 else "Comma")] * count)
                away -= count * step * (1 if away > 0 else -1)
