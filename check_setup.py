"""Check: what training needs, what this machine has, and the cure; needs nothing installed.

./run_training.sh check
./run_training.sh check --data-dir /disk/videos
"""

from __future__ import annotations  # a Python too old to train with must still be told so

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cloud.rows import Row, print_rows

ROOT = Path(__file__).resolve().parent
PYTHONS = ((3, 11), (3, 13))  # oldest and newest that Pipfile.lock serves
SET_UP_GB = 10  # .venv and the wheels it is made from; run_training.sh asks for the same
FREE_GB = 2  # for features and runs of a small set: a GB for each 2.5 hours at 4 frames/s, 96x96
MEMORY_GB = 4
DRIVER = 580  # oldest NVIDIA driver for CUDA 13, which torch is built for
WEIGHTS_FILE = "mobilenet_v2-b0353104.pth"  # torchvision's name for the set that training loads
TORCH_PROBE = (
    "import torch; print(torch.__version__, torch.cuda.is_available(), torch.version.cuda)"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="data", help="folder with a folder per class")
    data_dir = parser.parse_args().data_dir
    rows = [
        check_python(),
        check_environment(),
        check_disk(),
        check_memory(),
        check_cores(),
        check_gpu(),
        *check_videos(data_dir),
        check_weights(),
        check_writable("runs"),
        check_writable("cache"),
    ]
    print_rows(rows)
    missing = [row.requirement for row in rows if row.state == "MISSING"]
    if missing:
        print(f"\nTraining can't start yet: {', '.join(missing)}. Mend that and check again.")
        return 1
    print("\nTraining can start: ./run_training.sh local")
    return 0


def check_python() -> Row:
    found = f"{platform.python_version()} ({sys.executable})"
    oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Row("ok", "Python", found, "")
    return Row("MISSING", "Python", found, f"install Python {oldest} to {newest}")


def check_environment() -> Row:
    python = ROOT / ".venv" / "bin" / "python"
    answer = _output([str(python), "-c", TORCH_PROBE])
    if answer is None:
        cure = "none needed: ./run_training.sh local installs it"
        return Row("note", "packages", "not installed yet", cure)
    torch, has_cuda, cuda = answer.split()
    seen = f"a GPU by CUDA {cuda}" if has_cuda == "True" else "no GPU"
    return Row("ok", "packages", f"torch {torch}, which sees {seen}", "")


def check_disk() -> Row:
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    needed_gb = FREE_GB if (ROOT / ".venv").is_dir() else SET_UP_GB
    found = f"{free_gb:.0f} GB free, {needed_gb} needed"
    if free_gb >= needed_gb:
        return Row("ok", "disk", found, "")
    return Row("MISSING", "disk", found, "free some space, or clone to a larger disk")


def check_memory() -> Row:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = f"{memory_gb:.0f} GB"
    if memory_gb >= MEMORY_GB:
        return Row("ok", "memory", found, "")
    return Row("note", "memory", found, f"{MEMORY_GB} GB are safe: close others, or --batch-size 4")


def check_cores() -> Row:
    # What this process may use can be less than what the machine has, in a container for one.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores >= 2:
        return Row("ok", "CPU", f"{cores} cores", "")
    return Row("note", "CPU", "1 core", "videos are read twice as fast on two")


def check_gpu() -> Row:
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = _output(["nvidia-smi", *query])
    if not answer:
        return Row("note", "GPU", "none by NVIDIA", "none needed: heads are trained on the CPU")
    name, driver, memory = (field.strip() for field in answer.splitlines()[0].split(","))
    found = f"{name}, {memory}, driver {driver}"
    if int(driver.split(".")[0]) < DRIVER:
        cure = f"not used: CUDA 13 needs driver {DRIVER} or newer; install that to train on the GPU"
        return Row("note", "GPU", found, cure)
    return Row("ok", "GPU", found, "")


def check_videos(data_dir: str) -> list[Row]:
    """One row for each class, or one that says why there is none."""
    if sys.version_info[:2] < PYTHONS[0]:
        return [Row("note", "videos", "not looked at", "needs the Python above")]
    from utils.errors import UserError
    from utils.fetching import FETCHED
    from utils.recordings import class_names, find_recordings
    from utils.sources import open_source

    if data_dir.startswith("s3:"):  # this runs before boto3 is installed
        return [Row("note", "videos", data_dir, "is looked at when it is prepared")]
    folder = ROOT / data_dir
    is_default = data_dir == "data"
    left_out: list[str] = []
    try:
        source = open_source(str(folder), ROOT / "cache" / FETCHED)
        looks = folder.is_dir() or not is_default
        recordings = find_recordings(source, left_out.append) if looks else []
        classes = class_names(recordings) if recordings else []
    except UserError as error:
        found, _, cure = str(error).partition(": ")
        return [Row("MISSING", "videos", found, cure)]
    if classes:
        has_validation = any(recording.validation for recording in recordings)
        rows = [
            _class_row(label, [r for r in recordings if label in r.labels], has_validation)
            for label in classes
        ]
        return rows + [Row("note", "videos", line, "") for line in left_out]
    cure = f"put yours into {data_dir}/ads and {data_dir}/games"
    if is_default:
        return [Row("note", "videos", f"none in {data_dir}", f"trains on a demo set; {cure}")]
    return [Row("MISSING", "videos", f"none in {data_dir}", cure)]


def check_weights() -> Row:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    path = Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_FILE
    if path.is_file():
        return Row("ok", "ImageNet weights", f"{path}", "")
    cure = (
        "training downloads them (13.6 MB), or takes --weights FILE; "
        "with neither it trains from scratch, which needs far more videos"
    )
    return Row("note", "ImageNet weights", "not on this machine yet", cure)


def check_writable(name: str) -> Row:
    folder = ROOT / name
    try:
        with tempfile.TemporaryFile(dir=folder if folder.exists() else ROOT):
            pass
    except OSError as error:
        return Row("MISSING", f"{name}/", f"{error.strerror}: {folder}", "change its permissions")
    return Row("ok", f"{name}/", "can be written", "")


def _class_row(label: str, recordings: list, has_validation: bool) -> Row:
    training = [recording for recording in recordings if not recording.validation]
    groups = {recording.group for recording in training}
    held_out = len(recordings) - len(training)
    found = f"{len(training)} in {len(groups)} group{'s' * (len(groups) != 1)}"
    if has_validation:
        found += f", {held_out} in validation"
        cure = "" if held_out else f"put some into validation/{label}, or remove validation"
    else:
        cure = "" if len(groups) > 1 else "add a second group: validation holds one out"
    return Row("MISSING" if cure else "ok", f"videos: {label}", found, cure)


def _output(command: list[str]) -> str | None:
    """What the command prints, or None where it isn't there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
