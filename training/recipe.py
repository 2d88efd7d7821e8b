"""Recipe: what a checkpoint says of itself, without its weights, so without torch."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from utils.errors import UserError

FORMAT = "ad-game-classifier/1"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another version."""


def read_recipe(path: Path) -> dict:
    """The recipe in a checkpoint. Raises CheckpointError."""
    with opened(path, "numpy") as file:
        return json.loads(check_format(path, file.metadata(), FORMAT)["recipe"])


@contextlib.contextmanager
def opened(path: Path, framework: str) -> Iterator[safe_open]:
    """The .safetensors file, whose tensors are of the framework. Raises CheckpointError."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is not a file: train first with ./run_training.sh local")
    try:
        with safe_open(path, framework) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({error}): train again or copy it anew"
        ) from error


def check_format(path: Path, metadata: dict[str, str] | None, wanted: str) -> dict[str, str]:
    """The metadata, where they are of the wanted format. Raises CheckpointError."""
    found = (metadata or {}).get("format", "no format of ours")
    if found != wanted:
        raise CheckpointError(
            f"{path} is of another version (found {found!r}, this code reads {wanted!r}): "
            "train again, or use the version that wrote it"
        )
    return metadata
