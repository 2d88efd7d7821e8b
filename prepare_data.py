"""Decodes recordings once, into the store that training reads.

    python prepare_data.py                          data/, for cost_optimized_train.py
    python prepare_data.py --script train.py        the frames that train.py wants
    python prepare_data.py s3://bucket/archive --store s3://bucket/prepared --price 0.526
    python prepare_data.py list.txt --frames keyframes --fps 1     a cheap look at an archive
    python prepare_data.py /nfs/archive --cache-dir /nfs/cache --ray=auto      on a Ray cluster
    python prepare_data.py --status                 what is prepared, pending and rejected
    python prepare_data.py --verify                 checks the store's bytes; damaged recordings are
                                                    made again by the next run
    python prepare_data.py --prune                  removes what no recording of SOURCE needs

SOURCE is a folder with a folder per class, s3://bucket/prefix, or a text file with one path or URL
a line. It is only read. Ctrl-C, a crash or a power cut loses only the parts of recordings that were
being decoded: the same command goes on from there. Files are known by content: renamed ones are not
decoded again, changed ones are. What can't be read is listed with the reason in rejected.csv beside
the store, and not tried again.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from cloud.s3 import S3Folder
from cloud.shared_store import SharedStores
from utils.config import Config, FlagParser, make_config, read_constants
from utils.errors import UserError, run_main
from utils.features import FeatureSpec
from utils.fetching import FETCHED
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.recordings import (
    VIDEO_SUFFIXES,
    DataError,
    Recording,
    describe_recordings,
    find_recordings,
)
from utils.rejects import LIST
from utils.sharing import prepare_shared
from utils.sources import Source, open_source
from utils.upkeep import (
    PrunePlan,
    damaged_recordings,
    plan_prune,
    prune,
    source_status,
    store_statuses,
)

ROOT = Path(__file__).resolve().parent
SCRIPT = "cost_optimized_train.py"
CONSTANTS = (  # of the script that say how features are made, and how they are prepared
    "fps",
    "frame_size",
    "frames",
    "crop_bars",
    "sample_rate",
    "n_mfcc",
    "mfcc_n_mels",
    "cache_dir",
    "workers",
    "max_rejected",
)


def main() -> int:
    options, config = _read_options()
    source = open_source(
        options.source or config.data_dir, Path(config.cache_dir, FETCHED), S3Folder
    )
    recordings = find_recordings(source)
    if options.status:
        return _say_status(recordings, source, config)
    if options.verify:
        return _verify(recordings, source, config)
    if options.prune:
        return _prune(recordings, source, config, options.yes)
    if not recordings:
        raise DataError(
            f"{source.name} has no video ({' '.join(VIDEO_SUFFIXES)}) in a class folder: put "
            f"recordings into {source.name}/ads and {source.name}/games, or name another SOURCE"
        )
    print(describe_recordings(recordings))
    prepared = _prepare(recordings, source, config, options)
    _say_prepared(prepared)
    return 0


def _read_options() -> tuple[argparse.Namespace, Config]:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--script", type=Path, default=ROOT / SCRIPT)
    path = first.parse_known_args()[0].script
    script, handed_on = read_constants(path), ""
    if "TRAIN_SCRIPT" in script:  # of run_pipeline.py, which has another one train
        handed_on = script["TRAIN_FLAGS"]
        script = read_constants(path.with_name(script["TRAIN_SCRIPT"]))
    parser = FlagParser(
        prog="python prepare_data.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Without flags the constants are those at the top of the script.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help=f"where the recordings are [{script.get('DATA_DIR')}]",
    )
    parser.add_argument(
        "--script", metavar="FILE", help=f"training script to prepare for [{SCRIPT}]"
    )
    parser.add_argument(
        "--store",
        metavar="S3_URL",
        help="s3://bucket/prefix to take prepared recordings from, and to put them to",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="decode on a Ray cluster whose nodes share these folders [RAY_ADDRESS, or this one]",
    )
    parser.add_argument(
        "--price", type=float, metavar="DOLLARS", help="of an hour of this machine, for the bill"
    )
    parser.add_argument(
        "--retry-rejected", action="store_true", help="try what was rejected before again"
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--status", action="store_true", help="say what is prepared, and leave")
    actions.add_argument("--verify", action="store_true", help="check the bytes of the store")
    actions.add_argument("--prune", action="store_true", help="remove what is not needed any more")
    parser.add_argument("--yes", action="store_true", help="prune without asking")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_constants(script, CONSTANTS)
    options = parser.parse_args()
    if options.store and (options.status or options.verify or options.prune):
        parser.error(
            "--store is for preparing: --status, --verify and --prune look at what is here"
        )
    given = {**_flags_in(handed_on), **{n: v for n in CONSTANTS if (v := getattr(options, n))}}
    return options, make_config(script, given)


def _flags_in(words: str) -> dict[str, str | None]:
    """The values of our constants in the flags of a training."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in CONSTANTS:
        parser.add_argument("--" + name.replace("_", "-"))
    return vars(parser.parse_known_args(shlex.split(words))[0])


def _prepare(
    recordings: list[Recording], source: Source, config: Config, options: argparse.Namespace
) -> PreparedSet:
    prepare = prepare_recordings
    if options.store:
        prepare = partial(prepare_shared, shared=SharedStores(options.store))
    return prepare(
        recordings,
        source,
        config.feature_spec,
        config.cache_dir,
        workers=config.workers,
        max_rejected=config.max_rejected,
        price_per_hour=options.price,
        retry_rejected=options.retry_rejected,
        cluster=options.ray,
    )


def _say_prepared(prepared: PreparedSet) -> None:
    for item in prepared.rejected:
        print(f"set aside   {item.recording.name}: {item.reason}")
    hours = sum(map(prepared.seconds, prepared.keys)) / 3600
    print(f"ready       {len(prepared.keys)} recordings, {hours:.2f} h")
    print(f"store       {prepared.store.folder} ({_describe_spec(prepared.spec)})")
    if prepared.rejected:
        print(f"rejected    {prepared.store.folder / LIST}")


def _say_status(recordings: list[Recording], source: Source, config: Config) -> int:
    spec = config.feature_spec
    status = source_status(recordings, source, spec, config.cache_dir)
    print(f"source      {source.name}: {describe_recordings(recordings) or 'no recording'}")
    print(
        f"            {len(status.prepared)} prepared · {len(status.pending)} pending · "
        f"{len(status.rejected)} rejected"
    )
    for recording, reason in status.rejected.items():
        print(f"rejected    {recording.name}: {reason}")
    stores = store_statuses(config.cache_dir)
    for store in stores:
        words = [f"{store.size_bytes / 1e9:.2f} GB"]
        if store.spec is not None:
            words = [
                _describe_spec(store.spec),
                f"{store.recordings} recordings",
                f"{store.seconds / 3600:.2f} h",
                *words,
            ]
        here = " <- this one" if store.folder.name == spec.id else ""
        print(f"store       {store.folder}: {' · '.join(words)}{here}")
    if not any(store.folder.name == spec.id for store in stores):
        print(f"store       none yet for {_describe_spec(spec)}")
    return 0


def _verify(recordings: list[Recording], source: Source, config: Config) -> int:
    store = open_feature_store(config.cache_dir, config.feature_spec)
    status = source_status(recordings, source, config.feature_spec, config.cache_dir)
    names = {key: recording.name for recording, key in status.prepared.items()}
    damaged = []
    size_bytes = sum(map(store.size_bytes, store))
    with tqdm(total=size_bytes, desc="verify", unit="B", unit_scale=True, leave=False) as bar:
        for key, reason, checked_bytes in damaged_recordings(store):
            if reason:
                tqdm.write(f"damaged     {names.get(key, key)}: {reason}")
                damaged.append(key)
            bar.update(checked_bytes)
    if damaged:
        store.forget(damaged)
        print(
            f"{len(damaged)} of {len(store) + len(damaged)} recordings were damaged and are taken "
            "out of the store: run prepare_data.py again to make them anew"
        )
        return 1
    print(f"all {len(store)} recordings in {store.folder} are as they were written")
    return 0


def _prune(recordings: list[Recording], source: Source, config: Config, yes: bool) -> int:
    spec = config.feature_spec
    unknown = source_status(recordings, source, spec, config.cache_dir).unknown
    if unknown:
        raise UserError(
            f"{unknown} recordings of {source.name} were never read, and may be renamed ones that "
            "the store holds: run prepare_data.py first"
        )
    plan = plan_prune(recordings, source, spec, config.cache_dir)
    for line in _describe_plan(plan, source):
        print(line)
    if plan.size_bytes == 0 and not plan.others:
        print("nothing to remove")
        return 0
    if not yes and not _agreed(f"remove {plan.size_bytes / 1e9:.2f} GB? [y/N] "):
        print("nothing was removed")
        return 1
    prune(plan, recordings, source, config.cache_dir)
    print(f"removed {plan.size_bytes / 1e9:.2f} GB")
    return 0


def _describe_plan(plan: PrunePlan, source: Source) -> Iterator[str]:
    if plan.store_bytes:
        yield (
            f"{plan.store.folder}: {len(plan.keys)} recordings that are not in {source.name}, and "
            f"unused space, {plan.store_bytes / 1e9:.2f} GB"
        )
    if plan.incoming_bytes:
        yield f"{plan.store.folder}: unfinished work, {plan.incoming_bytes / 1e9:.2f} GB"
    for store in plan.others:
        words = _describe_spec(store.spec) if store.spec else "of another version"
        yield f"{store.folder}: all of it ({words}), {store.size_bytes / 1e9:.2f} GB"


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody is there to ask: add --yes to remove that")
    return input(question).strip().lower() in ("y", "yes")


def _describe_spec(spec: FeatureSpec) -> str:
    height, width = spec.frame_size
    return f"{spec.frames} frames, {spec.fps:g} a second, {height}x{width}"


if __name__ == "__main__":
    run_main(main)
