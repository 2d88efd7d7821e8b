"""Takes new recordings to a better model in use, by itself, and back again.

    python run_pipeline.py                      all steps; what has not changed is not done again
    python run_pipeline.py --dry-run            which steps would run, and why
    python run_pipeline.py --from train         begins there, with what the steps before have left
    python run_pipeline.py --only evaluate      this step alone; --again does it in any case
    python run_pipeline.py versions             all models, and who was champion when and why
    python run_pipeline.py rollback [VERSION]   back to an earlier champion, in seconds

    ingest -> validate -> prepare -> train -> evaluate -> promote -> embed -> index -> publish

Recordings lie in data/<class>/, as for training, or on S3. A new model takes over only where it is
better than the champion on clips that neither has learned from. Without any setting all of it stays
on this machine: runs/champion is the model in use. Ctrl-C, a crash or a power cut costs little: the
same command goes on from there. pipeline_guide.md explains each step, MongoDB, S3 and schedules.
"""

import argparse
import contextlib
from collections.abc import Iterator

from cloud.s3 import S3Error
from pipeline.indexing import Embed, Index
from pipeline.ingest import Ingest
from pipeline.judging import Evaluate, Promote
from pipeline.preparing import Prepare
from pipeline.publishing import Publish
from pipeline.records import only_one
from pipeline.settings import Settings, make_settings
from pipeline.steps import Pipeline, Step, run_steps, say_plan
from pipeline.takeover import publish_rollback, take_over
from pipeline.training import Train
from pipeline.validation import Validate
from training.registry import Registry
from training.run_log import check_writable
from training.tracking import TrackingError, tracking_uri
from utils.config import FlagParser
from utils.errors import run_main

# Places
DATA_DIR = "data"  # folder, list of files or s3://bucket/prefix; each folder in it is a class
CACHE_DIR = "cache"  # prepared features, clip store, index; can be deleted at any time
RUNS_DIR = "runs"  # trainings, models, and the records of the steps
BUCKET = ""  # of S3 to publish to; or S3_BUCKET_NAME; without, nothing is published
PREFIX = "store/pipeline"  # folder in the bucket; instances may write below store/

# Training
TRAIN_SCRIPT = "cost_optimized_train.py"  # or train.py
TRAIN_FLAGS = ""  # for it, such as "--model lrcn --epochs 12"
SEED = 42  # of which groups judge, and of the training

# What recordings must be like
TEST_FRACTION = 0.25  # part of the groups that judge and are never learned from; at least 3 a class
MIN_CLASS_MINUTES = 1.0  # of each class; less ends the pipeline
MAX_IMBALANCE = 20.0  # times as much of one class as of another
MAX_CLASS_DRIFT = 0.5  # part of the time that is of another class than in the last run
MAX_EMBEDDING_DRIFT = 2.0  # deviations between how the champion sees new and known recordings

# When a challenger takes over
MIN_GAIN = 0.01  # in balanced accuracy, with all of its 99 % interval above nothing
MAX_CLASS_LOSS = 0.05  # that any class may lose in recall

STEPS = (Ingest, Validate, Prepare, Train, Evaluate, Promote, Embed, Index, Publish)


def main() -> int:
    options, settings = read_options()
    check_writable(settings.runs_dir)
    registry = Registry(settings.runs_dir, tracking_uri(settings.runs_dir, wanted=True))
    if options.action == "versions":
        return say_versions(registry)
    pipeline = Pipeline(settings, registry, again=options.again)
    if options.dry_run:
        say_plan(pipeline, options.steps)
        return 0
    with only_one(pipeline.folder) as pipeline.lock:
        if options.action == "rollback":
            return roll_back(pipeline, options.version)
        if said := registry.finish():
            pipeline.say("registry", said)
        take_over(pipeline)
        run_steps(pipeline, options.steps)
    if registry.champion:
        pipeline.say("champion", f"{registry.champion.name} in {settings.runs_dir}/champion")
    return 0


def roll_back(pipeline: Pipeline, name: str | None) -> int:
    with without_s3(pipeline):
        take_over(pipeline)
    try:
        version = pipeline.registry.rollback(name)
    except TrackingError as error:  # it must not be in the way of going back
        version = pipeline.registry.champion
        pipeline.say("  WARNING", f"MLflow is told at the next start: {error}")
    pipeline.say("rollback", f"{version.name} is champion, {version.model}")
    with without_s3(pipeline):
        if url := publish_rollback(pipeline):
            pipeline.say("publish", f"{url} names it again")
    pipeline.say("next", "python run_pipeline.py --from embed: search follows it")
    return 0


@contextlib.contextmanager
def without_s3(pipeline: Pipeline) -> Iterator[None]:
    """Goes on where S3 can't be had: it must not be in the way of going back."""
    try:
        yield
    except S3Error as error:
        pipeline.say("  WARNING", f"S3 does not follow: {error.filename}: {error.strerror}")


def say_versions(registry: Registry) -> int:
    champion = registry.champion
    if not registry.versions():
        print("there is no model yet: run run_pipeline.py")
    for version in registry.versions():
        decision = version.facts.get("decision") or {}
        mark = "champion" if version == champion else ""
        print(f"{version.name}  {mark:<8}  {version.facts['added']}  {decision.get('reason', '')}")
    for reign in registry.history():
        print(f"{reign.since}  {reign.version} became champion: {reign.why}")
    return 0


def read_options() -> tuple[argparse.Namespace, Settings]:
    names = [step.name for step in STEPS]
    parser = FlagParser(
        prog="python run_pipeline.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="steps:\n" + "\n".join(f"  {step.name:<9} {step.about}" for step in STEPS),
    )
    parser.add_argument("action", nargs="?", choices=("run", "rollback", "versions"), default="run")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="number, name or id")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", choices=names, metavar="STEP", help="this step alone")
    some.add_argument("--from", dest="first", choices=names, metavar="STEP", help="begin there")
    parser.add_argument("--again", action="store_true", help="also what has not changed")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="for launchers: it always goes on"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    settings = [field for field in Settings.__dataclass_fields__]
    parser.add_constants(globals(), settings)
    options = parser.parse_args()
    if options.version and options.action != "rollback":
        parser.error("VERSION goes with rollback")
    first = names.index(options.only or options.first or names[0])
    last = first if options.only else len(names)
    options.steps: list[Step] = [step() for step in STEPS[first : last + 1]]
    return options, make_settings(globals(), {name: getattr(options, name) for name in settings})


if __name__ == "__main__":
    run_main(main)
