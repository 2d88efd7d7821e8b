"""Durations: how long stretches of each class last, by default or fitted to labelled recordings."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.special import log_ndtr

from utils.errors import UserError
from utils.files import write_whole
from utils.labels import BREAK_LABEL, REST_LABEL, Span

SHORTEST_SECONDS = 2.0  # what no window of scores can tell apart
PRIOR_STRETCHES = 10.0  # a default counts as much as so many stretches that were measured
TOUCHING_SECONDS = 0.5  # labels closer than this leave nothing between them
FIT_ROUNDS = 50  # of expectation and maximisation; it settles in about ten


class DurationsError(UserError):
    """A file of durations that can't be read."""


@dataclass(frozen=True)
class Duration:
    """How long a stretch of a class lasts: the logarithm is normal, as of many human activities.

    Half of all last longer than `typical_seconds`, two of three between typical / spread and
    typical * spread, and none less than the minimum. Raises ValueError where that can't be.
    """

    minimum_seconds: float
    typical_seconds: float
    spread: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} is {value!r}: give a number")
        if not SHORTEST_SECONDS <= self.minimum_seconds < self.typical_seconds < math.inf:
            raise ValueError(
                f"minimum_seconds is {self.minimum_seconds:g} and typical_seconds "
                f"{self.typical_seconds:g}: give {SHORTEST_SECONDS:g} <= minimum < typical"
            )
        if not 1.05 <= self.spread <= 100:
            raise ValueError(f"spread is {self.spread:g}: give a factor from 1.05 to 100")

    def log_survival(self, seconds: np.ndarray) -> np.ndarray:
        """The logarithm of the chance to last longer than so many seconds, 0 up to the minimum."""
        seconds = np.maximum(seconds, self.minimum_seconds)
        return self._log_tail(seconds) - self._log_tail(self.minimum_seconds)

    def _log_tail(self, seconds: np.ndarray | float) -> np.ndarray:
        return log_ndtr(-np.log(np.asarray(seconds) / self.typical_seconds) / math.log(self.spread))


@dataclass(frozen=True)
class Durations:
    """How long stretches of each class last."""

    classes: Mapping[str, Duration]

    def of(self, label: str) -> Duration:
        """That of a class; one nobody measured may last from seconds to hours."""
        return self.classes.get(label, OTHER_DURATION)

    def sentences(self) -> list[str]:
        """For example `ads: typically 95 s, two of three 43 to 209 s, none under 10 s`."""
        return [
            f"{label}: typically {one.typical_seconds:.0f} s, two of three "
            f"{one.typical_seconds / one.spread:.0f} to {one.typical_seconds * one.spread:.0f} s, "
            f"none under {one.minimum_seconds:.0f} s"
            for label, one in self.classes.items()
        ]


# Spots are sold as 10, 15, 20, 30 and 60 s. A break of sports is 15 s (an injury, one spot) to
# 6 min (half-time): US football has 2:20 since 2017, basketball 1:15 to 3:15, half-times 3 to 5 min
# at a time. Play between two breaks is 20 s (a restart after a timeout) to hours (football here has
# 45 min without one). So the spreads are wide: evidence decides, and durations speak up where a
# change would make a stretch that hardly ever is.
DEFAULT_DURATIONS = Durations(
    {
        BREAK_LABEL: Duration(minimum_seconds=8.0, typical_seconds=90.0, spread=2.2),
        REST_LABEL: Duration(minimum_seconds=20.0, typical_seconds=360.0, spread=3.0),
    }
)
OTHER_DURATION = Duration(minimum_seconds=8.0, typical_seconds=120.0, spread=4.0)


def fit_durations(
    labelled: Iterable[tuple[Sequence[Span], float]], defaults: Durations = DEFAULT_DURATIONS
) -> Durations:
    """Durations of the classes in `labelled`: spans in order and duration of each recording.

    A stretch that the recording's end or a gap between labels cuts counts as lasting at least as
    long as what is seen of it. Few stretches move the defaults little: those count as
    PRIOR_STRETCHES more. Of classes without a stretch the defaults stay.
    """
    whole: dict[str, list[float]] = {}
    cut: dict[str, list[float]] = {}
    for spans, duration_seconds in labelled:
        for label, seconds, is_cut in _stretches(spans, duration_seconds):
            (cut if is_cut else whole).setdefault(label, []).append(seconds)
    fitted = {
        label: _fit(whole.get(label, []), cut.get(label, []), defaults.of(label))
        for label in sorted({*whole, *cut})
    }
    return Durations({**defaults.classes, **fitted})


def write_durations(path: Path, durations: Durations) -> None:
    """Writes what `read_durations` reads, JSON, whole or not at all."""
    content = {"durations": {label: asdict(one) for label, one in durations.classes.items()}}
    write_whole(path, json.dumps(content, indent=2).encode() + b"\n")


def read_durations(path: Path) -> Durations:
    """Durations from a file; classes it does not name keep their defaults. Raises DurationsError."""
    cure = "write one with --fit-durations FOLDER, or leave --durations out"
    try:
        content = json.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise DurationsError(f"{path}: {error.strerror or error}: {cure}") from None
    except (ValueError, RecursionError):
        raise DurationsError(f"{path} is not JSON: {cure}") from None
    try:
        rows = dict(content["durations"].items())
    except (KeyError, TypeError, AttributeError):
        raise DurationsError(f'{path} is not {{"durations": {{...}}}}: {cure}') from None
    read = {}
    for label, row in rows.items():
        try:
            read[label] = Duration(**row)
        except TypeError:
            wanted = ", ".join(field.name for field in fields(Duration))
            raise DurationsError(f"{path}: {label} needs {wanted}, and nothing else") from None
        except ValueError as error:
            raise DurationsError(f"{path}: {label}: {error}") from None
    return Durations({**DEFAULT_DURATIONS.classes, **read})


def _stretches(spans: Sequence[Span], duration_seconds: float) -> Iterable[tuple[str, float, bool]]:
    """(label, seconds, whether it was longer than what is seen of it) of each span."""
    for index, span in enumerate(spans):
        end_seconds = min(span.end_seconds, duration_seconds)
        if not 0 < end_seconds - span.start_seconds < math.inf:
            continue
        before = spans[index - 1].end_seconds if index else -math.inf
        after = spans[index + 1].start_seconds if index + 1 < len(spans) else math.inf
        is_cut = max(span.start_seconds - before, after - span.end_seconds) > TOUCHING_SECONDS
        yield span.label, end_seconds - span.start_seconds, is_cut


def _fit(whole: Sequence[float], cut: Sequence[float], default: Duration) -> Duration:
    """The most probable duration, the default being PRIOR_STRETCHES stretches that were seen too.

    Cut stretches by expectation and maximisation: each counts as what it would last on average,
    and as spread as that is, under the duration found so far.
    """
    seen, least = np.log(np.maximum(whole, SHORTEST_SECONDS)), np.log(np.maximum(cut, 1.0))
    default_mean, default_variance = (
        math.log(default.typical_seconds),
        math.log(default.spread) ** 2,
    )
    mean, variance = default_mean, default_variance
    count = PRIOR_STRETCHES + len(seen) + len(least)
    for _ in range(FIT_ROUNDS):
        deviation = math.sqrt(variance)
        z = (least - mean) / deviation
        # The density over the chance to be above, stable for any z.
        pull = np.exp(-(z**2) / 2 - math.log(math.sqrt(2 * math.pi)) - log_ndtr(-z))
        expected = mean + deviation * pull
        uncertain = variance * (1 - pull * (pull - z))
        mean = (PRIOR_STRETCHES * default_mean + seen.sum() + expected.sum()) / count
        squares = ((seen - mean) ** 2).sum() + ((expected - mean) ** 2 + uncertain).sum()
        prior = default_variance + (default_mean - mean) ** 2
        variance = (PRIOR_STRETCHES * prior + squares) / count
    typical = math.exp(mean)
    shortest = min([default.minimum_seconds, *(0.9 * np.asarray(whole))])
    minimum = max(SHORTEST_SECONDS, min(shortest, typical / 2))
    return Duration(
        round(minimum, 2), round(typical, 2), round(max(1.1, math.exp(math.sqrt(variance))), 3)
    )
