"""Resumption: what --resume does about each constant that differs from those the run began with."""

from utils.errors import UserError

# Why a resumed run can't take another value; None where it takes it over.
_CLIPS = "the clips and what the network is fed would be others"
_WEIGHTS = "the weights learned so far would not fit"
_NETWORK = "the weights were learned with it"
_PLAN = "what learns when was planned with it"
_ORDER = "clips of the epoch would be trained on twice or not at all"
ON_RESUME: dict[str, str | None] = {
    # Where things are: the same videos and weights may lie elsewhere, which is checked.
    "data_dir": None,
    "cache_dir": None,
    "runs_dir": "a run stays in its folder",
    "weights": None,
    # What the clips are.
    "clip_seconds": _CLIPS,
    "clip_hop_seconds": _CLIPS,
    "label_margin_seconds": _CLIPS,
    "fps": _CLIPS,
    "frame_size": _CLIPS,
    "frames": _CLIPS,
    "crop_bars": _CLIPS,
    "sample_rate": _CLIPS,
    "n_mfcc": _CLIPS,
    "mfcc_n_mels": _CLIPS,
    "val_fraction": _CLIPS,
    "max_rejected": None,
    # What the network is.
    "model": _WEIGHTS,
    "encoder": _WEIGHTS,
    "lstm_size": _WEIGHTS,
    "lstm_layers": _WEIGHTS,
    "fuse_sound": _WEIGHTS,
    "sequence_frames": _NETWORK,
    "average_over_time": _NETWORK,
    "trunk_size": _CLIPS,
    "sound_size": _WEIGHTS,
    "dropout": None,
    "modality_dropout": None,
    # How it learns: from the next step on. The rate follows the new plan from where it is.
    "seed": _ORDER,
    "fine_tune_blocks": _PLAN,
    "frozen_epochs": _PLAN,
    "frozen_draws": _ORDER,
    "epochs": None,
    "batch_size": None,  # the position in an epoch counts clips, not steps
    "train_frames": None,
    "scratch_frames": None,
    "learning_rate": None,
    "head_learning_rate": None,
    "lstm_learning_rate": None,
    "scratch_learning_rate": None,
    "warmup": None,
    "weight_decay": None,
    "label_smoothing": None,
    "patience": None,
    # How it is judged, which comes after it has learned.
    "folds": None,
    "learning_curve": None,
    "max_game_loss": None,
    "min_recall": None,
    "track": None,
    # How the machine is used.
    "workers": None,
    "mixed_precision": None,
    "compile": None,
    "checkpoint_minutes": None,
}


class ResumeError(UserError):
    """A run was to go on with constants that do not fit what it learned."""


def compare_constants(run: dict, wanted: dict, asked: set[str]) -> list[str]:
    """One line for each constant that differs between the run and what the script would do.

    `wanted` are the script's constants with the flags, whose names are `asked`. What was asked for
    is taken over, or refused with a ResumeError; what merely stands otherwise in the file, which
    may have been a flag when the run began, stays as the run has it.
    """
    different = {name: value for name, value in wanted.items() if value != run[name]}
    refused = [
        f"{_flag(name)} (from {_show(run[name])} to {_show(value)}: {ON_RESUME[name]})"
        for name, value in different.items()
        if name in asked and ON_RESUME[name]
    ]
    if refused:
        raise ResumeError(
            f"--resume can't change {', '.join(refused)}: leave it out, or start a new run"
        )
    return [
        f"changed     {name.upper()} from {_show(run[name])} to {_show(value)}, from here on"
        if name in asked
        else f"kept        {name.upper()} = {_show(run[name])}, as the run began; the script says "
        f"{_show(value)}" + ("" if ON_RESUME[name] else f" ({_flag(name)} would change it)")
        for name, value in different.items()
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _show(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
