"""Profile: what the last run's recordings were like, for the next one to be held against."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from pipeline.drift import Profile
from pipeline.records import read_json, write_json
from pipeline.steps import Pipeline

FILE = "profile.json"


def write_profile(
    pipeline: Pipeline, seen: Profile, hours: Mapping[str, float], keys: Iterable[str]
) -> None:
    """Keeps hours by class, the recordings' keys, and how the champion sees their clips."""
    write_json(
        profile_path(pipeline),
        {"hours": dict(hours), "keys": sorted(keys), **asdict(seen)},
    )


def read_reference(pipeline: Pipeline) -> dict[str, float] | None:
    """Hours by class of the last run; None for the first one."""
    return read_json(profile_path(pipeline)).get("hours")


def read_profile(pipeline: Pipeline, model: str) -> tuple[Profile | None, set[str]]:
    """How this model saw the last run's clips, and the keys of its recordings."""
    kept = read_json(profile_path(pipeline))
    if kept.get("model") != model:
        return None, set()
    names = ("model", "clips", "mean", "std")
    return Profile(**{name: kept[name] for name in names}), set(kept["keys"])


def profile_path(pipeline: Pipeline) -> Path:
    return pipeline.folder / FILE
