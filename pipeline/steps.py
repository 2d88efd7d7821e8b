"""Steps: what a pipeline does one after the other, and why each is done or left out."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from pipeline.records import (
    FOLDER,
    PipelineError,
    StepRecord,
    changed_inputs,
    now,
    read_record,
    write_record,
)
from pipeline.settings import Settings
from training.registry import Registry


class NotYet(PipelineError):
    """A step needs what another one has not made yet."""


@dataclass
class Pipeline:
    """What all steps share: the settings, the folder of the records, and the registry."""

    settings: Settings
    registry: Registry
    lock: int | None = None  # of the running pipeline, for its children to hold
    again: bool = False  # also what has not changed
    warnings: list[str] = field(default_factory=list)  # of the step at work

    @property
    def folder(self) -> Path:
        return Path(self.settings.runs_dir, FOLDER)

    def record(self, step: str) -> StepRecord | None:
        return read_record(self.folder, step)

    def outputs(self, step: str) -> dict:
        """What a step has made. Raises NotYet."""
        record = self.record(step)
        if record is None:
            raise NotYet(f"{step} was not done yet: run run_pipeline.py without --only, or --from")
        return record.outputs

    def say(self, what: str, line: str) -> None:
        tqdm.write(f"{what:<11} {line}")

    def warn(self, line: str) -> None:
        """Says it, and keeps it in the record of the step at work."""
        self.warnings.append(line)
        self.say("  WARNING", line)


class Step(ABC):
    """One step. It may be stopped anywhere, and done again from its start."""

    name: str
    about: str  # what it does, in a few words for --help

    @abstractmethod
    def inputs(self, pipeline: Pipeline) -> dict:
        """All that decides what comes out, as JSON. Reads only. Raises NotYet."""

    @abstractmethod
    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        """Does it; returns outputs as JSON, and one line that says what came of it."""

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        """What of its outputs is no longer there, in a few words. Reads only."""
        return None


@dataclass(frozen=True)
class Plan:
    """Whether a step is to be done. `why` is None where it is not."""

    step: Step
    why: str | None


def run_steps(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """Does those that have to be done, in order, and says so in a line for each."""
    for step in steps:
        plan = plan_step(pipeline, step)
        if plan.why is None:
            record = pipeline.record(step.name)
            pipeline.say(step.name, f"nothing changed since {record.ended}: {record.summary}")
            continue
        pipeline.say(step.name, f"begins ({plan.why})")
        pipeline.warnings = []
        inputs, started = step.inputs(pipeline), time.monotonic()
        outputs, summary = step.run(pipeline)
        seconds = round(time.monotonic() - started, 1)
        record = StepRecord(step.name, inputs, outputs, summary, pipeline.warnings, now(), seconds)
        write_record(pipeline.folder, record)
        pipeline.say(step.name, f"done in {seconds:.1f} s: {summary}")


def plan_step(pipeline: Pipeline, step: Step) -> Plan:
    record = pipeline.record(step.name)
    why = changed_inputs(record, step.inputs(pipeline))
    if why is None:
        why = step.lost(pipeline, record.outputs)
    return Plan(step, why or ("--again" if pipeline.again else None))


def say_plan(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """Says which steps would be done and why, and does nothing."""
    before = None
    for step in steps:
        try:
            why = plan_step(pipeline, step).why
        except NotYet:
            why = "not done yet"
        if why:
            pipeline.say(step.name, f"would run: {why}")
            before = before or step.name
        elif before:
            pipeline.say(step.name, f"would run where {before} makes something else of it")
        else:
            pipeline.say(step.name, "nothing changed")
