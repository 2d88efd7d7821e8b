"""Validation: what recordings must be like before hours are spent on them.

Failures end the pipeline with a line each. Warnings are said and kept in the step's record.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.drift import WARN_PART, class_drift
from pipeline.probing import probe_videos
from pipeline.profile import read_reference
from pipeline.records import PipelineError
from pipeline.settings import Settings
from pipeline.source import open_recordings
from pipeline.split import groups_by_class, too_few_groups
from pipeline.steps import Pipeline, Step
from utils.recordings import Recording, class_names, find_recordings

FEW_MINUTES_FACTOR = 3  # below so many times the least of a class it is warned of


@dataclass
class Findings:
    """What is wrong with recordings, a line for each."""

    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def limit(self, value: float, limit: float, line: str) -> None:
        """A failure above the limit, a warning above a part of it."""
        if value > limit:
            self.failures.append(line)
        elif value > WARN_PART * limit:
            self.warnings.append(line)

    def settle(self, pipeline: Pipeline, step: str) -> None:
        """Says all. Raises PipelineError where there are failures."""
        for line in self.warnings:
            pipeline.warn(line)
        for line in self.failures:
            pipeline.say("  FAILURE", line)
        if self.failures:
            count = len(self.failures)
            raise PipelineError(
                f"{step}: {count} check{'s' * (count != 1)} failed, the first: {self.failures[0]}"
            )


class Validate(Step):
    name = "validate"
    about = "check labels, counts, lengths, balance and drift before anything is decoded"

    def inputs(self, pipeline: Pipeline) -> dict:
        return {
            "recordings": pipeline.outputs("ingest")["files"],
            "limits": limits_of(pipeline.settings),
        }

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        source = open_recordings(pipeline)
        recordings = find_recordings(source, lambda line: pipeline.warn(line))
        class_names(recordings)  # raises DataError for fewer than two
        findings, lengths, unreadable = Findings(), {}, {}
        if source.is_remote:
            pipeline.say("", "the videos are far away: lengths are known once they are decoded")
        else:
            lengths, unreadable = probe_videos({r.name: source.place(r.name) for r in recordings})
            check_readable(unreadable, len(recordings), max_rejected(pipeline), findings)
        readable = [recording for recording in recordings if recording.name not in unreadable]
        groups = groups_by_class(r for r in readable if not r.validation)
        if not any(recording.validation for recording in readable):
            findings.failures += too_few_groups(groups)
        hours = class_hours(readable, lengths)
        if lengths:
            check_hours(hours, pipeline.settings, read_reference(pipeline), findings)
        findings.settle(pipeline, self.name)
        classes = {
            label: {"groups": len(names), "hours": round(hours.get(label, 0.0), 4)}
            for label, names in groups_by_class(readable).items()
        }
        outputs = {"classes": classes, "unreadable": unreadable}
        said = " · ".join(
            f"{label}: {facts['groups']} groups, {60 * facts['hours']:.1f} min"
            for label, facts in classes.items()
        )
        return outputs, f"{said} · {len(unreadable)} unreadable"


def limits_of(settings: Settings) -> dict:
    names = ("min_class_minutes", "max_imbalance", "max_class_drift", "max_embedding_drift")
    return {name: getattr(settings, name) for name in names}


def max_rejected(pipeline: Pipeline) -> float:
    """The training script's own limit: it stops there anyway."""
    return pipeline.settings.train_config().max_rejected


def check_readable(
    unreadable: Mapping[str, str], count: int, limit: float, findings: Findings
) -> None:
    if unreadable:
        name, reason = next(iter(unreadable.items()))
        more = f" and {len(unreadable) - 1} more" * (len(unreadable) > 1)
        line = f"{len(unreadable)} of {count} videos can't be read: {name} ({reason}){more}"
        (findings.failures if len(unreadable) > limit * count else findings.warnings).append(line)


def class_hours(recordings: Iterable[Recording], seconds: Mapping[str, float]) -> dict[str, float]:
    """Hours labelled as each class; recordings of unknown length count for nothing."""
    hours: dict[str, float] = {}
    for recording in recordings:
        end = seconds.get(recording.name, 0.0)
        end = end if math.isfinite(end) else 0.0
        for span in recording.spans:
            length = max(0.0, min(span.end_seconds, end) - span.start_seconds)
            hours[span.label] = hours.get(span.label, 0.0) + length / 3600
    return dict(sorted(hours.items()))


def check_hours(
    hours: Mapping[str, float],
    settings: Settings,
    reference: Mapping[str, float] | None,
    findings: Findings,
) -> None:
    """Too little of a class, too uneven classes, or another mixture than in the last run."""
    least = settings.min_class_minutes
    for label, value in hours.items():
        minutes = 60 * value
        line = f"{label} has {minutes:.1f} minutes, and {least:g} are asked (MIN_CLASS_MINUTES)"
        if minutes < least:
            findings.failures.append(line)
        elif minutes < FEW_MINUTES_FACTOR * least:
            findings.warnings.append(line)
    most, fewest = max(hours, key=hours.get), min(hours, key=hours.get)
    if hours[fewest] > 0:
        ratio = hours[most] / hours[fewest]
        findings.limit(
            ratio,
            settings.max_imbalance,
            f"there is {ratio:.1f} times as much of {most} as of {fewest} "
            f"(MAX_IMBALANCE {settings.max_imbalance:g})",
        )
    if reference:
        drift = class_drift(reference, hours)
        findings.limit(
            drift,
            settings.max_class_drift,
            f"{drift:.0%} of the time is of another class than in the last run "
            f"(MAX_CLASS_DRIFT {settings.max_class_drift:g}): look at the labels, or raise it",
        )
