"""Policies: which breaks of a timeline are skipped, and how close to their edges."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest

import numpy as np

from timeline.segments import UNSURE_BELOW
from timeline.timeline import Segment, Timeline
from utils.errors import UserError
from utils.labels import BREAK_LABEL, Span

PADDED = "padding"  # evidence of an edge that lies where the user wants it
# What a choice is made of, in the order in which it is preferred where several find as much.
PADS_SECONDS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
CONFIDENCES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
NOTHING = 1.01  # a confidence that no break has
OVER_BUDGET = 0.1  # part of the recordings that may lose more: one odd one must not decide


class PolicyError(UserError):
    """Recordings that no policy can be chosen on."""


@dataclass(frozen=True)
class Policy:
    """What is done with the breaks that were found. Nothing, by default.

    `pad_seconds` of a break stay in on either side, but not at the ends of the recording; below 0,
    as much of what is round it goes too. A break goes back to being watched that is shorter than
    `min_break_seconds`, less sure than `min_confidence`, or with `keep_unsure`, marked as unsure.
    """

    pad_seconds: float = 0.0
    min_break_seconds: float = 0.0
    keep_unsure: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.pad_seconds):
            raise ValueError(f"pad_seconds is {self.pad_seconds}: give seconds")
        if not 0 <= self.min_break_seconds < math.inf:
            raise ValueError(f"min_break_seconds is {self.min_break_seconds}: give 0 or more")


@dataclass(frozen=True)
class Outcome:
    """What a policy does to recordings whose truth is known."""

    recordings: int
    within_budget: int  # recordings that lose no more than was asked
    lost_seconds: float  # mean of the seconds that a recording loses of what is no break
    most_lost_seconds: float
    found: float | None  # part of all break seconds that is skipped; None where there is none


@dataclass(frozen=True)
class Choice:
    """A policy for a stated loss, and what it did to recordings that had no part in choosing it.

    `judged` comes from choosing as often as there are recordings, each time without the one that
    is judged; None where there is a single recording.
    """

    max_game_loss: float  # seconds a recording
    policy: Policy
    fitted: Outcome  # on all recordings that chose it: flattering
    judged: Outcome | None

    def sentences(self) -> list[str]:
        """What was chosen and what to expect, for people."""
        policy, aim = self.policy, f"at most {self.max_game_loss:g} s of game lost a recording"
        if policy.min_confidence >= 1:
            lines = [f"{aim}: no break is skipped, since no choice of them kept to it"]
        else:
            lines = [
                f"{aim}: breaks from a confidence of {policy.min_confidence:.0%} on, "
                f"{policy.pad_seconds:g} s of them left on each side"
            ]
        if self.judged is None:
            return [*lines, "chosen on one recording: what it does to others is not known"]
        judged = self.judged
        found = "" if judged.found is None else f", finds {judged.found:.0%} of break time"
        return [
            *lines,
            f"on recordings that had no part in choosing: {judged.within_budget} of "
            f"{judged.recordings} keep to it; loses {judged.lost_seconds:.1f} s on average and "
            f"{judged.most_lost_seconds:.1f} s at most{found}",
        ]

    def to_dict(self) -> dict:
        return asdict(self)


def apply_policy(timeline: Timeline, policy: Policy) -> Timeline:
    """The timeline as it is to be watched; its segments cover the recording as before.

    Breaks that stay in become what the recording is else (`Timeline.kept`) and join what is beside
    them, as do breaks that a padding below 0 makes touch. A break that padding leaves nothing of
    stays in.
    """
    segments = [
        _watched(one, timeline) if one.label == BREAK_LABEL and _stays_in(one, policy) else one
        for one in timeline.segments
    ]
    segments = _joined(segments)
    if policy.pad_seconds:
        segments = _joined(_padded(segments, timeline, policy.pad_seconds))
    return replace(timeline, segments=tuple(segments))


def choose_policy(
    labelled: Sequence[tuple[Timeline, Sequence[Span]]],
    max_game_loss: float,
    base: Policy | None = None,
) -> Choice:
    """The confidence and padding that skip most break time while a recording loses at most
    `max_game_loss` seconds of anything else; one in ten may lose more (OVER_BUDGET).

    `labelled` has timelines as they were found, edges included, and what is true of each recording;
    what the labels leave out is neither lost nor found. What else the policy says is `base`'s.
    Raises PolicyError where nothing is labelled, ValueError for a negative loss.
    """
    if not 0 <= max_game_loss < math.inf:
        raise ValueError(f"max_game_loss is {max_game_loss}: give seconds, 0 or more")
    if not labelled:
        raise PolicyError(
            "no labelled recording to choose by: put recordings with label files "
            "(.edl, .csv or .json beside them) into a folder, and name it"
        )
    base = base or Policy()
    policies = [
        replace(base, pad_seconds=pad, min_confidence=confidence)
        for pad in PADS_SECONDS
        for confidence in CONFIDENCES
    ]
    policies.append(replace(base, min_confidence=NOTHING))
    # (policies, recordings) seconds lost and found, (recordings,) seconds of break
    results = [
        [_skipped(apply_policy(timeline, policy), spans) for timeline, spans in labelled]
        for policy in policies
    ]
    lost, found = np.moveaxis(np.array(results, np.float64), 2, 0)
    breaks = np.array([_break_seconds(timeline, spans) for timeline, spans in labelled])
    best = _best(lost, found, max_game_loss)
    fitted = _outcome(lost[best], found[best], breaks, max_game_loss)
    judged = None
    if len(labelled) > 1:
        every = np.arange(len(labelled))
        chosen = [
            _best(lost[:, every != one], found[:, every != one], max_game_loss) for one in every
        ]
        judged = _outcome(lost[chosen, every], found[chosen, every], breaks, max_game_loss)
    return Choice(max_game_loss, policies[best], fitted, judged)


def _stays_in(segment: Segment, policy: Policy) -> bool:
    return (
        segment.seconds < policy.min_break_seconds
        or segment.confidence < policy.min_confidence
        or policy.keep_unsure
        and segment.unsure
    )


def _watched(segment: Segment, timeline: Timeline) -> Segment:
    """A break that stays in: as probable as it was not one."""
    confidence = 1 - segment.confidence
    return replace(
        segment, label=timeline.kept, confidence=confidence, unsure=confidence < UNSURE_BELOW
    )


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbours of one label made one, as sure as they are on average over time."""
    joined: list[Segment] = []
    for one in segments:
        last = joined[-1] if joined else None
        if last is None or last.label != one.label:
            joined.append(one)
            continue
        certain = last.seconds * last.confidence + one.seconds * one.confidence
        confidence = certain / (last.seconds + one.seconds)
        joined[-1] = replace(
            last,
            end_seconds=one.end_seconds,
            end_evidence=one.end_evidence,
            confidence=confidence,
            unsure=confidence < UNSURE_BELOW,
        )
    return joined


def _padded(
    segments: Sequence[Segment], timeline: Timeline, pad_seconds: float
) -> Iterator[Segment]:
    """The segments with each edge of a break moved into it, or out of it below 0."""
    duration = timeline.duration_seconds
    segments = _joined(
        _watched(one, timeline)
        if one.label == BREAK_LABEL and _left(one, duration, pad_seconds) <= 0
        else one
        for one in segments
    )
    start, start_evidence = 0.0, segments[0].start_evidence
    for one, after in zip_longest(segments, segments[1:]):
        end, end_evidence, next_evidence = duration, one.end_evidence, ()
        if after is not None:
            shift = pad_seconds * ((after.label == BREAK_LABEL) - (one.label == BREAK_LABEL))
            end = min(max(start, one.end_seconds + shift), duration)
            next_evidence = after.start_evidence
            if shift:
                end_evidence = next_evidence = (PADDED,)
        if start < end:  # else breaks grew over it
            yield replace(
                one,
                start_seconds=start,
                end_seconds=end,
                start_evidence=start_evidence,
                end_evidence=end_evidence,
            )
        start, start_evidence = end, next_evidence


def _left(segment: Segment, duration_seconds: float, pad_seconds: float) -> float:
    """Seconds of a break that its padding leaves; the recording's ends need none."""
    inner_edges = (segment.start_seconds > 0) + (segment.end_seconds < duration_seconds)
    return segment.seconds - pad_seconds * inner_edges


def _skipped(timeline: Timeline, spans: Sequence[Span]) -> tuple[float, float]:
    """Seconds in breaks that are labelled as something else, and as breaks."""
    lost = found = 0.0
    for segment in timeline.breaks:
        for span in spans:
            common = min(segment.end_seconds, span.end_seconds) - max(
                segment.start_seconds, span.start_seconds
            )
            if common > 0 and span.label == BREAK_LABEL:
                found += common
            elif common > 0:
                lost += common
    return lost, found


def _break_seconds(timeline: Timeline, spans: Sequence[Span]) -> float:
    ends = [
        (span.start_seconds, min(span.end_seconds, timeline.duration_seconds))
        for span in spans
        if span.label == BREAK_LABEL
    ]
    return sum(max(0.0, end - start) for start, end in ends)


def _best(lost: np.ndarray, found: np.ndarray, max_game_loss: float) -> int:
    """The policy of (policies, recordings) that finds most and keeps to the loss."""
    over = (lost > max_game_loss + 1e-9).sum(axis=1)
    allowed = over <= int(OVER_BUDGET * lost.shape[1])
    merits = np.where(allowed, found.sum(axis=1), -1.0)
    best = np.flatnonzero(merits >= merits.max() - 1e-6)
    return int(best[lost[best].sum(axis=1).argmin()])


def _outcome(
    lost: np.ndarray, found: np.ndarray, breaks: np.ndarray, max_game_loss: float
) -> Outcome:
    return Outcome(
        recordings=len(lost),
        within_budget=int((lost <= max_game_loss + 1e-9).sum()),
        lost_seconds=float(lost.mean()),
        most_lost_seconds=float(lost.max()),
        found=float(found.sum() / breaks.sum()) if breaks.any() else None,
    )
