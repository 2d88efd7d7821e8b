"""Configuration: the constants of a training script, checked, and overridden by flags."""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from utils.audio import MfccSpec
from utils.errors import UserError
from utils.features import FeatureSpec
from utils.resumption import compare_constants
from utils.video import FRAME_MODES


class ConfigError(UserError):
    """A constant that is unknown, missing, of the wrong type or out of range."""


@dataclass(frozen=True)
class Config:
    """The constants of a training script by lower-case name, explained beside them there."""

    data_dir: str
    cache_dir: str
    runs_dir: str
    clip_seconds: float
    clip_hop_seconds: float
    label_margin_seconds: float
    fps: float
    frame_size: tuple[int, int]
    frames: str
    crop_bars: bool
    sample_rate: int
    n_mfcc: int
    mfcc_n_mels: int
    max_rejected: float
    workers: int
    model: str
    encoder: str
    sequence_frames: int
    lstm_size: int
    lstm_layers: int
    average_over_time: bool
    fuse_sound: bool
    weights: str
    trunk_size: tuple[int, int] | str
    fine_tune_blocks: str
    sound_size: int
    dropout: float
    modality_dropout: float
    seed: int
    val_fraction: float
    folds: str
    learning_curve: bool
    max_game_loss: float | None
    min_recall: float | None
    track: bool
    batch_size: int
    epochs: int
    frozen_epochs: int
    frozen_draws: int
    train_frames: int
    scratch_frames: int
    learning_rate: float
    head_learning_rate: float
    lstm_learning_rate: float
    scratch_learning_rate: float
    warmup: float
    weight_decay: float
    label_smoothing: float
    patience: int
    mixed_precision: bool
    compile: bool
    checkpoint_minutes: float

    @property
    def feature_spec(self) -> FeatureSpec:
        mfcc = MfccSpec(sample_rate=self.sample_rate, n_mfcc=self.n_mfcc, n_mels=self.mfcc_n_mels)
        return FeatureSpec(self.fps, self.frame_size, self.frames, self.crop_bars, mfcc)

    @property
    def learns_from_scratch(self) -> bool:
        """Whether no pretrained weights are known for the network."""
        return self.model == "lrcn" and self.encoder == "conv"

    def constants(self) -> dict:
        """By upper-case name, as the scripts write them."""
        return {name.upper(): value for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Options:
    """What a training script was asked: the configuration, and a run to go on with or None.

    `notes` say which constants differ from those with which that run began.
    """

    config: Config
    resume: Path | None
    notes: tuple[str, ...] = ()


# (lowest, highest) accepted value, both included
RANGES = {
    "clip_seconds": (1.0, 600.0),
    "clip_hop_seconds": (0.5, 600.0),
    "label_margin_seconds": (0.0, 60.0),
    "fps": (1.0, 60.0),
    "sample_rate": (4_000, 96_000),
    "n_mfcc": (4, 128),
    "mfcc_n_mels": (4, 256),
    "max_rejected": (0.0, 1.0),
    "workers": (0, 256),
    "sequence_frames": (2, 4096),
    "lstm_size": (1, 4096),
    "lstm_layers": (0, 8),
    "sound_size": (1, 4096),
    "dropout": (0.0, 0.95),
    "modality_dropout": (0.0, 0.5),
    "seed": (0, 2**32 - 1),
    "val_fraction": (0.01, 0.5),
    "max_game_loss": (0.0, 3600.0),
    "min_recall": (0.0, 1.0),
    "batch_size": (1, 4096),
    "epochs": (1, 10_000),
    "frozen_epochs": (0, 10_000),
    "frozen_draws": (1, 1000),
    "train_frames": (2, 4096),
    "scratch_frames": (2, 4096),
    "learning_rate": (1e-8, 1.0),
    "head_learning_rate": (1e-8, 1.0),
    "lstm_learning_rate": (1e-8, 1.0),
    "scratch_learning_rate": (1e-8, 1.0),
    "warmup": (0.0, 0.9),
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.5),
    "patience": (1, 10_000),
    "checkpoint_minutes": (0.0, 1440.0),
}
CHOICES = {
    "frames": FRAME_MODES,
    "model": ("late_fusion", "lrcn"),
    "encoder": ("mobilenet_v2", "conv"),
}
# Constants that came later, and what runs from before them did.
LATER = {
    "model": "late_fusion",
    "encoder": "mobilenet_v2",
    "sequence_frames": 16,
    "lstm_size": 128,
    "lstm_layers": 1,
    "average_over_time": True,
    "fuse_sound": True,
    "lstm_learning_rate": 1e-3,
}
SMALLEST_FRAME, LARGEST_FRAME = 32, 1024  # MobileNetV2 halves the picture five times


def read_options(script: dict, arguments: list[str] | None = None) -> Options:
    """The constants in `script` (a training script's globals()), overridden by the command line.

    Every constant is a flag: BATCH_SIZE is --batch-size 16. Raises ConfigError for a missing
    constant or a bad value; prints help and leaves for --help.
    """
    given = vars(_make_parser(script).parse_args(arguments))
    given.pop("debug")
    resume = given.pop("resume")
    config = make_config(script, given)
    if resume is None:
        return Options(config, None)
    run = dataclasses.asdict(config_of_run(resume))
    asked = {name for name, value in given.items() if value is not None}
    notes = compare_constants(run, dataclasses.asdict(config), asked)
    taken = {name: getattr(config, name) for name in asked}
    return Options(_checked(run | taken), resume, tuple(notes))


def read_constants(path: Path) -> dict:
    """What `read_options` takes, of a training script that is not run: torch takes seconds.

    Raises ConfigError for what is no such script.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{path} can't be read as a training script ({error}): "
            "pass --script train.py or cost_optimized_train.py"
        ) from None
    constants = {"__file__": str(path), "__doc__": ast.get_docstring(module)}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):  # not a literal, so not one of the constants
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    return constants


def make_config(script: dict, given: dict[str, object]) -> Config:
    """The constants in `script`, overridden by those of `given` that are not None."""
    values = {}
    for field in dataclasses.fields(Config):
        constant = field.name.upper()
        if constant not in script:
            raise ConfigError(
                f"{Path(script['__file__']).name} does not define {constant}: "
                "write it at the top, as the file came with it"
            )
        value = given.get(field.name)
        values[field.name] = script[constant] if value is None else value
    return _checked(values)


def config_of_run(folder: Path) -> Config:
    """The configuration in a run's config.json. Raises ConfigError where that can't be used."""
    path = folder / "config.json"
    try:
        constants = json.loads(path.read_text(encoding="utf-8"))["constants"]
        values = LATER | {name.lower(): value for name, value in constants.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{folder} is not the folder of a run: name one below runs/, "
            "or start a new one without --resume"
        ) from None
    names = {field.name for field in dataclasses.fields(Config)}
    if set(values) != names:
        odd = ", ".join(sorted(set(values) ^ names))
        raise ConfigError(f"{path} is of another version (differs in {odd}): start a new run")
    return _checked(values)


def _checked(values: dict[str, object]) -> Config:
    """A configuration of values as a file or the command line gives them, by lower-case name."""
    config = Config(
        **{
            field.name: _check_range(
                field.name, _convert(field.name, values[field.name], field.type)
            )
            for field in dataclasses.fields(Config)
        }
    )
    _check_together(config)
    return config


class FlagParser(argparse.ArgumentParser):
    """A parser that says what a mistyped flag may have meant, in one line."""

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        arguments = sys.argv[1:] if arguments is None else arguments
        known = [option for action in self._actions for option in action.option_strings]
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                near = difflib.get_close_matches(flag, known, 3, 0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all"
                raise ConfigError(f"unknown option {flag}: {hint}")
        return super().parse_args(arguments)

    def error(self, message: str) -> NoReturn:  # argparse prints all 35 flags before the mistake
        raise ConfigError(f"{message}: --help lists what is accepted")

    def add_constants(self, script: dict, names: Iterable[str]) -> None:
        """A flag for each of these constants, explained by the comment behind it."""
        notes = _trailing_comments(Path(script["__file__"]))
        for name in names:
            constant = name.upper()
            text = f"{notes.get(constant, '')} [{_show(script.get(constant))}]".strip()
            self.add_argument(_flag(name), metavar="VALUE", help=text.replace("%", "%%"))


def _make_parser(script: dict) -> FlagParser:
    parser = FlagParser(
        prog=f"python {Path(script['__file__']).name}",
        description=script["__doc__"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The same names can be changed at the top of the file.",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=Path(str(script.get("RUNS_DIR", "runs")), "latest"),
        metavar="RUN",
        help="go on with an interrupted run, by default the latest",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_constants(script, (field.name for field in dataclasses.fields(Config)))
    return parser


def _trailing_comments(path: Path) -> dict[str, str]:
    """The comment behind each `NAME = value` of a file: the help text is written once."""
    notes = {}
    name = None
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.start[1] == 0 and token.string.isupper():
            name = token.string
        elif token.type == tokenize.COMMENT and name:
            notes[name] = token.string.lstrip("# ")
        elif token.type == tokenize.NEWLINE:
            name = None
    return notes


def _convert(name: str, value: object, kind: type) -> object:
    """The value as its field's type. Strings come from the command line, the rest from the file."""
    try:
        if kind is bool:
            return _to_bool(value)
        if kind == tuple[int, int]:
            return _to_size(value)
        if kind == tuple[int, int] | str:
            return value if value == "auto" else _to_size(value)
        if kind is str:
            return str(value)
        if kind == float | None:
            return None if str(value).lower() == "none" else _convert(name, value, float)
        if isinstance(value, bool) or (kind is int and float(value) != int(float(value))):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        wanted = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            tuple[int, int]: "height,width such as 96,96",
            tuple[int, int] | str: "auto or height,width such as 144,144",
        }[kind]
        raise ConfigError(f"{_flag(name)} takes {wanted}, not {value!r}") from None


def _to_bool(value: object) -> bool:
    word = str(value).lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError
    return word in ("true", "yes", "1")


def _to_size(value: object) -> tuple[int, int]:
    parts = re.split(r"[,x ]+", value.strip("() ")) if isinstance(value, str) else list(value)
    if len(parts) == 1:
        parts = parts * 2
    height, width = (int(str(part)) for part in parts)  # int() alone would make 96 of 96.5
    return height, width


def _check_range(name: str, value: object) -> object:
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(f"{_flag(name)} is one of {', '.join(CHOICES[name])}, not {value!r}")
    if name in RANGES and value is not None:
        lowest, highest = RANGES[name]
        if not lowest <= value <= highest:
            raise ConfigError(f"{_flag(name)} lies between {lowest:g} and {highest:g}, not {value}")
    if isinstance(value, tuple) and not all(SMALLEST_FRAME <= s <= LARGEST_FRAME for s in value):
        raise ConfigError(
            f"{_flag(name)} takes sides of {SMALLEST_FRAME} to {LARGEST_FRAME} pixels, not {value}"
        )
    if name == "fine_tune_blocks" and not re.fullmatch("auto|1?[0-9]", value):
        raise ConfigError(f"--fine-tune-blocks takes auto or 0 to 19, not {value!r}")
    if name == "folds" and not re.fullmatch("auto|0|[2-9]|[1-9][0-9]{1,2}", value):
        raise ConfigError(f"--folds takes auto, 0 (none) or 2 to 999, not {value!r}")
    return value


def _check_together(config: Config) -> None:
    if config.n_mfcc > config.mfcc_n_mels:
        raise ConfigError(
            f"--n-mfcc {config.n_mfcc} can't exceed --mfcc-n-mels {config.mfcc_n_mels}: "
            "coefficients are made of the mel bands"
        )
    if config.clip_hop_seconds > config.clip_seconds:
        raise ConfigError(
            f"--clip-hop-seconds {config.clip_hop_seconds:g} exceeds --clip-seconds "
            f"{config.clip_seconds:g}: what lies between the clips would never be seen"
        )
    if config.learns_from_scratch and config.weights not in ("auto", "none"):
        raise ConfigError(
            f"--weights {config.weights} is of a MobileNetV2, and --encoder conv is none: leave "
            "one of them out"
        )
    if config.max_game_loss is not None and config.min_recall is not None:
        raise ConfigError(
            "--max-game-loss and --min-recall are two aims for one threshold: give one of them"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _show(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
