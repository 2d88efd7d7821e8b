"""Pipelines for tests: made clips, a training that only copies, and the whole of it killed.

    OMP_NUM_THREADS=1 python -m tests.pipelines FOLDER CLIPS RUN KILLS [SEED]

Runs a pipeline to its end, then others on the same clips, each killed with signal 9 after random
times and begun again until as many kills as asked were survived. Each must end with the champion,
the store and the index of the one that nothing broke. Prints one JSON object.
"""

import contextlib
import importlib
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import run_pipeline
from search.clip_store import open_clip_store
from tests.mlflow_server import make_database
from tests.trainings import SMALL, Outcome, flags, run_script
from training.registry import MODEL, Registry

ROOT = Path(__file__).resolve().parent.parent
RUN_VARIABLE = "TEST_RUN_TO_COPY"  # folder of the run whose files a copying training leaves
OUTSIDE = ("MONGODB_URL", "S3_BUCKET_NAME", "ADGAME_BUCKET", "MLFLOW_TRACKING_URI")
COPYING = '''

def main():
    """Leaves the files of another run, a part at a time, and goes on where it was killed."""
    import json, os, sys, time
    from pathlib import Path
    from utils.config import read_options
    from utils.files import write_whole

    options = read_options(globals())
    run = options.resume or Path(options.config.runs_dir, f"run-{time.time_ns()}")
    if not run.exists():
        partial = run.with_name(f".{run.name}")
        partial.mkdir(parents=True)
        config = {"script": Path(__file__).name, "constants": options.config.constants()}
        write_whole(partial / "config.json", json.dumps(config).encode())
        os.rename(partial, run)
    source = Path(os.environ["TEST_RUN_TO_COPY"])
    for name in ("data.json", "best.safetensors", "predictions.csv", "metrics.json", "report.html"):
        if not (run / name).exists():
            time.sleep(float(os.environ.get("TEST_PART_SECONDS", "0")))
            write_whole(run / name, (source / name).read_bytes())
            print(f"wrote {name}")


if __name__ == "__main__":
    from utils.errors import run_main

    run_main(main)
'''


def write_training(folder: Path) -> Path:
    """A script with the constants of cost_optimized_train.py that copies a run."""
    text = (ROOT / "cost_optimized_train.py").read_text()
    constants = re.search(r"^# Data\n.*?(?=^def main)", text, re.DOTALL | re.MULTILINE)[0]
    path = folder / "copying_train.py"
    head = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n\n"
    path.write_text(f'"""Copies."""\n\n{head}{constants.rstrip()}\n{COPYING}')
    return path


def pipeline_flags(clips: Path, script: Path) -> list[str]:
    """Arguments of run_pipeline.py for small clips; it writes into the folder it is called in."""
    small = flags(**{**SMALL, "weights": "none"})
    return [
        f"--train-flags={' '.join(small)}",
        *flags(
            data_dir=clips,
            train_script=script,
            min_class_minutes=0.1,
        ),
    ]


def run_pipe(folder: Path, arguments: list[str], *more: object) -> Outcome:
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        return run_script(run_pipeline, *arguments, *more)


def state_of(folder: Path) -> dict[str, object]:
    """What a pipeline has come to: the champion's bytes, the store's clips, the index's files."""
    champion = Registry(folder / "runs").champion
    champion.check()
    with open_clip_store(cache_dir=folder / "cache") as store:
        state = store.state()
    index = folder / "cache" / "search" / champion.id
    return {
        "champion": champion.name,
        "link": (folder / "runs" / "champion" / MODEL).read_bytes(),
        "reigns": [reign.version for reign in Registry(folder / "runs").history()],
        "store": state,
        "index": {p.name: p.read_bytes() for p in sorted(index.iterdir()) if p.name != "lock"},
        "left": [str(p) for p in (folder / "runs").rglob(".*.partial")],
    }


def main() -> None:
    folder, clips, run, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    chance = random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 0)
    os.environ |= {RUN_VARIABLE: run, "TEST_PART_SECONDS": "0.1"}
    for name in ("sklearn.metrics", "scipy.stats", "mlflow", "onnxruntime", "search.sqlite_store"):
        importlib.import_module(name)  # a pipeline does it late, and here each would
    database = make_database(folder / "template.db")

    arguments = pipeline_flags(clips, write_training(folder))

    def prepare(place: Path) -> None:
        (place / "runs").mkdir(parents=True)
        shutil.copy(database, place / "runs" / "mlflow.db")

    unbroken, started = folder / "unbroken", time.monotonic()
    prepare(unbroken)
    assert wait(fork(unbroken, arguments, folder / "said")) == 0, (folder / "said").read_text()
    seconds, expected = time.monotonic() - started, state_of(unbroken)

    kills, runs, steps = 0, 0, {}
    while kills < wanted:
        runs += 1
        place, code, tries = folder / f"run {runs}", -1, 0
        prepare(place)
        while code != 0:
            said = folder / f"said {runs} {tries}"
            child, tries = fork(place, arguments, said), tries + 1
            began = time.monotonic()
            limit = chance.uniform(0, seconds) if kills < wanted and tries <= 8 else math.inf
            code = wait(child, limit)
            if code == 0 and tries == 1:  # another program may have slowed the first one down
                seconds = min(seconds, time.monotonic() - began)
            assert code in (0, -signal.SIGKILL), said.read_text()
            if code:
                kills += 1
                begun = [
                    line.split()[0] for line in said.read_text().splitlines() if "begins (" in line
                ]
                step = begun[-1] if begun else "the start"
                steps[step] = steps.get(step, 0) + 1
        found = state_of(place)
        different = [name for name in expected if found[name] != expected[name]]
        assert not different, (place, different)
    print(json.dumps({"kills": kills, "runs": runs, "seconds": round(seconds, 1), "in": steps}))


def fork(place: Path, arguments: list[str], said: Path) -> int:
    """The process number of a pipeline that works in a folder and says into a file what it does."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with said.open("w", buffering=1) as file:
                os.chdir(place)
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.argv = ["run_pipeline.py", *map(str, arguments)]
                sys.stdout = file
                with contextlib.redirect_stderr(file):
                    code = run_pipeline.main()
        except BaseException as error:
            said.write_text(f"{said.read_text()}\n{error!r}")
        finally:
            os._exit(code)
    return child


def wait(child: int, limit_seconds: float = math.inf) -> int:
    """How the process ended, by signal 9 where it takes longer."""
    deadline = time.monotonic() + limit_seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    main()
