"""Settings: the constants of run_pipeline.py, checked, and overridden by flags."""

import argparse
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from utils.config import Config, ConfigError, make_config, read_constants

# (lowest, highest) accepted value, both included
RANGES = {
    "test_fraction": (0.05, 0.5),
    "min_class_minutes": (0.0, 1e6),
    "max_imbalance": (1.0, 1e6),
    "max_class_drift": (0.0, 1.0),
    "max_embedding_drift": (0.0, 1e6),
    "min_gain": (0.0, 1.0),
    "max_class_loss": (0.0, 1.0),
    "seed": (0, 2**32 - 1),
}
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The constants of run_pipeline.py by lower-case name, explained beside them there."""

    data_dir: str
    cache_dir: str
    runs_dir: str
    train_script: str
    train_flags: str
    seed: int
    test_fraction: float
    min_class_minutes: float
    max_imbalance: float
    max_class_drift: float
    max_embedding_drift: float
    min_gain: float
    max_class_loss: float
    bucket: str
    prefix: str

    @property
    def script(self) -> Path:
        """The training script: a path, or the name of one beside run_pipeline.py."""
        return ROOT / self.train_script  # an absolute path stays what it is

    def train_config(self) -> Config:
        """The constants with which the training script would train. Raises ConfigError."""
        words = shlex.split(self.train_flags)
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for field in dataclasses.fields(Config):
            parser.add_argument("--" + field.name.replace("_", "-"))
        given, unknown = parser.parse_known_args(words)
        if unknown:
            raise ConfigError(
                f"--train-flags has {unknown[0]}, which {self.train_script} does not take: "
                f"python {self.train_script} --help lists what it does"
            )
        places = {"cache_dir": self.cache_dir, "runs_dir": self.runs_dir, "seed": self.seed}
        return make_config(read_constants(self.script), {**vars(given), **places})


def make_settings(script: dict, given: dict[str, str | None]) -> Settings:
    """The constants in `script` (globals of run_pipeline.py), overridden by what is not None.

    Raises ConfigError for a bad value.
    """
    values = {}
    for field in dataclasses.fields(Settings):
        value = given.get(field.name)
        value = script[field.name.upper()] if value is None else value
        values[field.name] = _checked(field.name, value, field.type)
    return Settings(**values)


def _checked(name: str, value: object, kind: type) -> object:
    flag = "--" + name.replace("_", "-")
    try:
        value = kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{flag} takes {wanted}, not {value!r}") from None
    lowest, highest = RANGES.get(name, (value, value))
    if not lowest <= value <= highest:
        raise ConfigError(f"{flag} lies between {lowest:g} and {highest:g}, not {value}")
    return value
