"""Says what recordings show when: where the ads are, with a calibrated confidence.

    python label_recording.py game.ts                       the breaks of a recording
    python label_recording.py game.ts --write edl,picture   ... as files beside it
    python label_recording.py archive/ 'more/*.ts' --write edl --summary breaks.csv
    python label_recording.py game.ts --truth game.csv      how far that is from the truth
    python label_recording.py game.ts --cut ads             a copy without them
    python label_recording.py --live https://host/channel.m3u8 --on-change './mute.sh'

A recording that shows several things gets a line for each, with what its edge was put on. What was
labelled before, in the same way, is not decoded again. Files that can't be read are listed at the
end, and the exit code is then 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from tqdm import tqdm

from timeline.archive import expand, refuse_shared
from timeline.batch import Outcome, label_on_cluster, label_recordings
from timeline.changes import ENTER_SECONDS, LEAVE_SECONDS, ChangeSettings
from timeline.classifier import Classifier
from timeline.comparison import Comparison, compare, comparison_table
from timeline.copies import CUTS, CopyWishes, write_copies
from timeline.cutting import CUT_MODES
from timeline.durations import (
    DEFAULT_DURATIONS,
    fit_durations,
    read_durations,
    write_durations,
)
from timeline.formats import read_spans
from timeline.labelled import Labelled, Method
from timeline.ledger import ExistingFileError, Ledger
from timeline.live import LiveOptions, run_live
from timeline.outputs import NAMES, Outputs, find_truth
from timeline.policies import Policy, choose_policy
from timeline.summary import describe_timeline, summary_row, summary_table
from timeline.tables import to_json
from timeline.timeline import Timeline
from training.recipe import read_recipe
from training.registry import default_checkpoint
from training.thresholds import Thresholds, read_thresholds
from utils.errors import UserError, run_main
from utils.files import write_whole
from utils.labels import Span
from utils.media import MediaError
from utils.memory import return_freed_memory
from utils.muxing import MuxError
from utils.progress import Progress, ProgressBar
from utils.recordings import list_videos
from utils.video import probe

ENTER_HELP = "within which a break is to be known [%(default)g]; more makes fewer errors"
LEAVE_HELP = "within which the return to the game is to be known [%(default)g]"
FEW_BYTES = 100 << 20  # of recordings that are done sooner than more processes start
CACHE_DIR = Path("cache")


def main() -> int:
    return_freed_memory()
    options = _read_options()
    classifier, thresholds, data_dir = load_classifier(options.checkpoint, options.cache_dir)
    if options.live:
        return _watch(options, classifier)
    if options.fit_durations:
        return _fit_durations(options)
    items = list({item.path: item for item in expand(options.files)}.values())
    outputs = Outputs.of(
        options.write, options.out, labels_dir=data_dir, started_at=options.started_at
    )
    wanted = {item.path: outputs.paths(item.path, item.relative) for item in items}
    refuse_shared(wanted)
    truths = {i.path: find_truth(options.truth, i.path) for i in items} if options.truth else {}
    method = _read_method(options, classifier)
    wishes = CopyWishes(
        options.cut,
        options.cut_mode,
        options.chapters,
        options.annotate,
        options.out,
        options.overwrite,
    )
    if thresholds and not options.json:
        print("\n".join(thresholds.sentences()))

    ledger = _ledger(options, classifier, method)
    found: dict[Path, dict] = {}
    rows: dict[Path, dict] = dict.fromkeys(wanted, {})
    comparisons: list[Comparison] = []
    for path, outcome in _label_all(list(wanted), classifier, method, options):
        if isinstance(outcome, MediaError):
            rows[path] = {"recording": path, "error": str(outcome)}
            continue
        truth = _read_truth(truths[path], outcome.timeline) if path in truths else ()
        try:
            ledger.write(path, outputs.contents(wanted[path], outcome, truth), options.overwrite)
            copies = list(write_copies(path, outcome.timeline, wishes, say=_note))
        except (ExistingFileError, MuxError, MediaError) as error:  # the others can be written
            rows[path] = {"recording": path, "error": str(error)}
            continue
        described = _describe(path, outcome, classifier.classes, thresholds)
        rows[path] = summary_row(path, outcome.timeline, [*wanted[path], *copies])
        found[path] = described
        if not options.json:
            label, confidence = described["label"], described["confidence"]
            tqdm.write(describe_timeline(path, outcome.timeline, label, confidence), sys.stdout)
            for file in (*wanted[path], *copies):
                tqdm.write(f"    written {file}", sys.stdout)
        if truth:
            timeline = outcome.timeline
            comparisons.append(compare(timeline.segments, truth, timeline.duration_seconds))
    return _say_all(options, found, rows, comparisons, thresholds)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python label_recording.py",
        usage="%(prog)s FILE... [options] | --live SOURCE [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="video, folder, or pattern")
    checkpoint = default_checkpoint()
    add("--checkpoint", type=Path, default=checkpoint, help="what a training left [%(default)s]")
    add("--cache-dir", type=Path, default=CACHE_DIR, help="what is remembered [%(default)s]")
    add("--debug", action="store_true", help="show the traceback of an error")

    add = parser.add_argument_group("what is written").add_argument
    add("--json", action="store_true", help="print JSON instead of lines")
    add("--write", default="", metavar="NAMES", help=f"files of each: {', '.join(NAMES)}")
    add("--out", type=Path, metavar="FOLDER", help="for all files [beside each recording]")
    add("--summary", type=Path, metavar="FILE", help="CSV with a row for each recording")
    add("--cut", choices=CUTS, help="a copy without the ads, or without the games")
    add(
        "--cut-mode",
        choices=CUT_MODES,
        default="copy",
        help="copy: at key pictures, nothing encoded anew, no game lost; exact: at the picture "
        "[%(default)s]",
    )
    add("--chapters", action="store_true", help="a copy with chapters in it, MP4 or MKV")
    add("--annotate", type=Path, metavar="FILE", help="a video that shows label and confidence")
    add("--started-at", type=_moment, metavar="DATE", help="of the recording, ISO 8601, for hls")
    add("--overwrite", action="store_true", help="replace files that were not written here")

    add = parser.add_argument_group("how breaks are found").add_argument
    add("--quick", action="store_true", help="key pictures first, all of them near the edges only")
    add("--pad", type=float, default=0.0, metavar="S", help="of each break's ends that are kept")
    add("--min-break", type=float, default=0.0, metavar="S", help="shorter breaks are none")
    add("--keep-unsure", action="store_true", help="unsure breaks are none")
    add("--max-game-loss", type=float, metavar="S", help="of game a recording; with --tune-on")
    add("--tune-on", type=Path, metavar="FOLDER", help="labelled recordings to choose that on")
    add("--durations", type=Path, metavar="FILE", help="how long breaks last, of --fit-durations")
    add("--fit-durations", type=Path, metavar="FOLDER", help="write FILE from labelled recordings")
    add("--truth", type=Path, metavar="PATH", help="compare with a file, or a folder of them")

    add = parser.add_argument_group("archives").add_argument
    add("--jobs", type=int, default=0, metavar="N", help="recordings at a time [one a core]")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="on a Ray cluster [RAY_ADDRESS]")
    add("--again", action="store_true", help="also what was labelled before")
    add("--keep-embeddings", action="store_true", help="100 MB/h; a new training is then seconds")

    add = parser.add_argument_group("live").add_argument
    add("--live", metavar="SOURCE", help="URL, device, file, or - for MPEG-TS on stdin")
    add("--on-change", metavar="CMD", help="run this at each change, the event as its last word")
    add("--status-seconds", type=float, metavar="S", help="say how it goes every S seconds")
    add("--give-up-minutes", type=float, metavar="M", help="without a picture [never]")
    add("--enter-seconds", type=float, default=ENTER_SECONDS, metavar="S", help=ENTER_HELP)
    add("--leave-seconds", type=float, default=LEAVE_SECONDS, metavar="S", help=LEAVE_HELP)
    options = parser.parse_args()
    _check_options(parser, options)
    return options


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with one line where options don't go together."""
    if bool(options.files) + bool(options.live) + bool(options.fit_durations) != 1:
        parser.error("name recordings, or --live SOURCE, or --fit-durations FOLDER")
    if options.fit_durations and not options.durations:
        parser.error("--fit-durations writes the file that --durations FILE names: add it")
    if (options.max_game_loss is None) != (options.tune_on is None):
        parser.error("--max-game-loss S and --tune-on FOLDER go together")
    if options.annotate and (len(options.files) > 1 or Path(options.files[0]).is_dir()):
        parser.error("--annotate FILE is for one recording")


def _read_method(options: argparse.Namespace, classifier: Classifier) -> Method:
    policy = Policy(options.pad, options.min_break, options.keep_unsure)
    method = Method(
        quick=options.quick,
        durations=read_durations(options.durations) if options.durations else DEFAULT_DURATIONS,
        policy=policy,
        embeddings=options.cache_dir / "recordings" if options.keep_embeddings else None,
    )
    if options.max_game_loss is None:
        return method
    labelled = [
        (outcome.timeline, _read_truth(find_truth(path.parent, path), outcome.timeline))
        for path, outcome in _label_all(_videos_in(options.tune_on), classifier, method, options)
        if not isinstance(outcome, MediaError)
    ]
    choice = choose_policy(labelled, options.max_game_loss, policy)
    print("\n".join(choice.sentences()), file=sys.stderr)
    return replace(method, policy=choice.policy)


def _fit_durations(options: argparse.Namespace) -> int:
    """Writes how long what lasts in labelled recordings."""
    labelled = []
    for path in _videos_in(options.fit_durations):
        try:
            info = probe(path)
        except MediaError as error:
            raise UserError(f"{path} can't be read ({error}): move it elsewhere") from error
        truth = find_truth(path.parent, path)
        spans = read_spans(
            truth.name,
            truth.read_bytes(),
            duration_seconds=info.duration_seconds,
            zero_seconds=info.zero_seconds,
            frame_rate=info.frame_rate,
        )
        labelled.append((spans, info.duration_seconds))
    durations = fit_durations(labelled)
    write_durations(options.durations, durations)
    print("\n".join(durations.sentences()))
    print(f"written {options.durations}: use it with --durations {options.durations}")
    return 0


def _videos_in(folder: Path) -> list[Path]:
    """Raises UserError where there is none."""
    paths = list(list_videos(folder)) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"{folder} is no folder with recordings: put some there, each with its breaks in a "
            "file of the same name (.edl, .csv, .json)"
        )
    return paths


def _watch(options: argparse.Namespace, classifier: Classifier) -> int:
    """Says what a live stream shows, until it ends."""
    live = LiveOptions(
        ChangeSettings(options.enter_seconds, options.leave_seconds),
        options.status_seconds,
        options.on_change,
        options.give_up_minutes,
    )
    return run_live(options.live, classifier, live, sys.stdout)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.astimezone()


def load_classifier(
    path: Path, cache_dir: Path | None = None
) -> tuple[Classifier, Thresholds | None, Path]:
    """The model of a checkpoint, its thresholds, and the folder it learned from.

    With a `cache_dir` what was opened before is opened without torch.
    """
    recipe = read_recipe(path)
    if cache_dir is None:
        classifier = Classifier.of(_read_checkpoint(path), path)
    else:
        classifier = Classifier.open(path, recipe, lambda: _read_checkpoint(path), cache_dir)
    thresholds = read_thresholds(recipe)
    if thresholds:
        classifier = replace(classifier, thresholds=thresholds.values())
    return classifier, thresholds, Path(recipe["constants"]["DATA_DIR"])


def _read_checkpoint(path: Path) -> object:
    # Not above: they import torch, which takes longer than to label a short recording.
    from training.checkpoint import load_checkpoint
    from training.device import choose_device

    return load_checkpoint(path, choose_device())


def _label_all(
    paths: list[Path],
    classifier: Classifier,
    method: Method,
    options: argparse.Namespace,
) -> Iterator[tuple[Path, Outcome]]:
    """What came of each recording, with a bar; first of those that were labelled before."""
    ledger = _ledger(options, classifier, method)
    known = {} if options.again else {path: ledger.find(path) for path in paths if path.is_file()}
    pending = [path for path in paths if known.get(path) is None]
    yield from ((path, labelled) for path, labelled in known.items() if labelled is not None)
    if not pending:
        return
    sizes = {str(path): path.stat().st_size if path.is_file() else 0 for path in pending}
    progress = Progress(sizes, verb="labelled")
    bar = ProgressBar(progress)

    def report(path: Path, seconds: float, total_seconds: float) -> None:
        progress.opened(str(path), total_seconds)
        progress.reached(str(path), seconds)
        bar.show()

    try:
        if options.ray is not None:
            outcomes = label_on_cluster(pending, classifier, method, address=options.ray)
        else:
            many = len(pending) > 1 and sum(sizes.values()) > FEW_BYTES
            jobs = min(options.jobs or (many and os.cpu_count()) or 1, len(pending))
            outcomes = label_recordings(pending, classifier, method, jobs=jobs, report=report)
        for path, outcome in outcomes:
            is_labelled = not isinstance(outcome, MediaError)
            if is_labelled:
                ledger.add(path, outcome)
                outcome = ledger.find(path) or outcome  # to the digit what it will be next time
            progress.ended(str(path), outcome.timeline.duration_seconds if is_labelled else 0.0)
            bar.show()
            yield path, outcome
    finally:
        bar.close()
    if len(pending) > 1:
        print(progress.summary(), file=sys.stderr)


def _ledger(options: argparse.Namespace, classifier: Classifier, method: Method) -> Ledger:
    return Ledger.of(options.cache_dir / "labelled", classifier, method)


def _read_truth(path: Path, timeline: Timeline) -> tuple[Span, ...]:
    return read_spans(
        path.name,
        path.read_bytes(),
        duration_seconds=timeline.duration_seconds,
        zero_seconds=timeline.zero_seconds,
        frame_rate=timeline.frame_rate,
    )


def _describe(
    path: Path, labelled: Labelled, classes: Sequence[str], thresholds: Thresholds | None
) -> dict:
    """What --json prints of one recording: one answer for all of it, and its timeline."""
    overall = np.array([labelled.overall])
    said = thresholds.decide(overall, classes) if thresholds else overall.argmax(axis=1)
    return {
        "file": str(path),
        "label": classes[said[0]],
        "confidence": round(float(overall[0, said[0]]), 4),
        "probabilities": {
            name: round(p, 4) for name, p in zip(classes, labelled.overall, strict=True)
        },
        **json.loads(to_json(labelled.timeline)),
    }


def _say_all(
    options: argparse.Namespace,
    found: dict[Path, dict],
    rows: dict[Path, dict],
    comparisons: list[Comparison],
    thresholds: Thresholds | None,
) -> int:
    """Prints and writes what is said of all recordings together; returns the exit code."""
    rejected = [
        {"file": str(path), "error": row["error"]} for path, row in rows.items() if row.get("error")
    ]
    pooled = reduce(add, comparisons) if comparisons else None
    if options.json:
        document = {
            "thresholds": thresholds and thresholds.to_dict(),
            "recordings": [found[path] for path in rows if path in found],
            "rejected": rejected,
        }
        if pooled:
            document["comparison"] = pooled.to_dict()
        print(json.dumps(document, indent=2))
    elif pooled:
        print(f"compared with the truth, recordings: {len(comparisons)}")
        print(comparison_table(pooled))
    if options.summary:
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.summary, summary_table(rows.values()))
        print(f"written {options.summary}", file=sys.stderr)
    for item in rejected:
        print(f"error: {item['file']}: {item['error']}", file=sys.stderr)
    return 1 if rejected else 0


def _note(line: str) -> None:
    tqdm.write(f"    {line}", sys.stderr)


if __name__ == "__main__":
    run_main(main)
