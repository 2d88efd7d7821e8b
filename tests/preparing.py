"""Made recordings of different content, and preparations of them in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from tests import media

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--fps", "4", "--frame-size", "32,48", "--mfcc-n-mels", "20", "--crop-bars", "no")


def write_recordings(folder: Path, count: int, *, seconds: float = 2.0) -> Path:
    """Recordings of ads and games in turn, each with its own pictures and pitch."""
    for k in range(count):
        path = folder / ("ads", "games")[k % 2] / f"{k:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write_video(
            path,
            seconds=seconds + k % 3,
            fps=12,
            size=(48, 64),
            tone_hz=300 + 20 * k,
            draw=lambda seconds, h, w, k=k: media.draw_time(seconds + 10 * k, h, w),
        )
    return folder


def command(data: Path, *arguments: str | Path) -> list[str]:
    cache = data.parent / "cache"
    script = [sys.executable, ROOT / "prepare_data.py", data, "--cache-dir", cache, *SMALL]
    return [str(word) for word in (*script, *arguments)]


def start(data: Path, *arguments: str | Path, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(data, *arguments),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(data: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of prepare_data.py."""
    process = start(data, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
