"""Finds clips again: what looks like them, and where the same spot ran.

    python search_clips.py index data/              a folder, a list of files, s3://bucket/prefix,
                                                    or a feature store, cache/features/<id>
    python search_clips.py query spot.mp4           the ten places most like a file
    python search_clips.py query game.ts --start 12 --end 20 -k 5 --label ads
    python search_clips.py query spot.mp4 --same    the same spot first, by its fingerprint
    python search_clips.py query spot.mp4 --html found.html
    python search_clips.py airings                  how often and when each spot ran
    python search_clips.py list                     what is in the store
    python search_clips.py forget MODEL             removes the clips of a model

Answers are recordings and times. Clips are compared by the network in runs/latest/ or by another
--checkpoint, without any by the ImageNet trunk. They are kept in cache/clips.sqlite, or in
MongoDB where MONGODB_URL is set (MONGODB_USERNAME, MONGODB_PASSWORD). Ctrl-C and the same command
goes on; what did not change is not read again. Recordings that can't be read are listed at the end,
and the exit code is then 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from cloud.s3 import S3Folder
from search.clip_store import ClipStore, open_clip_store
from search.embeddings import Changes, model_version
from search.finder import Finder, index_folder, small_pictures
from search.holdings import (
    Holdings,
    embed_holdings,
    is_feature_store,
    prepare_holdings,
    read_holdings,
)
from search.model import SearchModel
from search.names import place_of, storable
from search.page import Card, Line, write_page
from search.places import Place
from search.stretch import Stretch, read_stretch
from search.vector_index import KINDS, open_index
from search.wording import (
    clock,
    how_often,
    how_similar,
    place_card,
    place_lines,
    spot_card,
    spot_lines,
    times,
)
from training.registry import default_checkpoint
from utils.config import make_config, read_constants
from utils.errors import UserError, run_main
from utils.fetching import FETCHED
from utils.media import MediaError
from utils.memory import return_freed_memory
from utils.sources import Source, open_source

ROOT = Path(__file__).resolve().parent
SCRIPT = ROOT / "cost_optimized_train.py"  # its constants say how clips are read without a model
CACHE_DIR = Path("cache")


def main() -> int:
    return_freed_memory()
    options = _read_options()
    with open_clip_store(options.store, cache_dir=options.cache_dir) as store:
        return options.run(options, store)


def index(options: argparse.Namespace, store: ClipStore) -> int:
    """Embeds what the store does not hold yet, and builds the index."""
    model = load_model(options, for_many=True)
    rejected: list[tuple[str, str]] = []
    changes = Changes()
    for text in options.sources:
        holdings = open_holdings(text, model, options)
        rejected += holdings.rejected
        with _bar(holdings.num_frames, "embed", "frame") as bar:
            changes += embed_holdings(store, model, holdings, report=bar.update)
    found = open_index(
        store,
        index_folder(options.cache_dir, model.version),
        model_version=model.version,
        kind=options.index,
        fresh=True,
    )
    others = [name for name in store.models() if name != model.version]
    said = {
        **asdict(changes),
        "clips": len(found),
        "index": found.kind,
        "recall": found.trees.recall if found.trees else 1.0,
        "store": store.name,
        "model": model.version,
        "rejected": [{"recording": name, "reason": reason} for name, reason in rejected],
    }
    if options.json:
        print(json.dumps(said, indent=2))
    else:
        print(
            f"clips       {changes.embedded} embedded, {changes.relabelled} relabelled, "
            f"{changes.kept} there already, {changes.deleted} deleted"
        )
        print(f"store       {store.name}: {len(found)} clips of model {model.version}")
        recall = f", recall@10 {said['recall']:.3f}" if found.trees else ""
        print(f"index       {found.kind}{recall}{': ' * bool(found.note)}{found.note}")
        if others:
            print(f"older       clips of {', '.join(others)}: `forget` removes them")
    for name, reason in rejected:
        print(f"error: {name}: {reason}", file=sys.stderr)
    return 1 if rejected else 0


def query(options: argparse.Namespace, store: ClipStore) -> int:
    """Finds what is like a file, or a part of it."""
    model = load_model(options)
    finder = open_finder(options, store, model)
    try:
        asked = read_stretch(options.file, model.spec, options.start, options.end)
    except MediaError as error:
        raise UserError(f"{options.file} can't be read ({error}): try another file") from error
    name = storable(place_of(str(options.file)))
    how = {"label": options.label, "same": options.same}
    with _bar(len(finder.keys), "look for the same", "recording") as bar:
        found = finder.answer(model, asked, name, options.k, report=bar.update, **how)
    say_places(options, asked, found.same, found.similar, finder)
    return 0


def airings(options: argparse.Namespace, store: ClipStore) -> int:
    """Says how often and when each spot ran."""
    model = load_model(options)
    finder = open_finder(options, store, model)
    runs = finder.spots(label=options.label)
    if options.json:
        print(json.dumps([asdict(spot) for spot in runs], indent=2))
    else:
        print("\n".join(spot_lines(runs)) or "nothing ran more than once")
    if options.html:
        cards = [spot_card(number, spot, finder) for number, spot in enumerate(runs, 1)]
        lead = f"{len(runs)} spots ran more than once, the most often run first."
        write_page(options.html, title="What ran more than once", lead=lead, cards=cards)
        print(f"written {options.html}", file=sys.stderr)
    return 0


def list_store(options: argparse.Namespace, store: ClipStore) -> int:
    """Says what the store holds, by model and recording."""
    models = store.models()
    found = {}
    for version in models:
        recordings: dict[str, dict] = {}
        for clip in store.find(model_version=version, vectors=False):
            entry = recordings.setdefault(clip.recording, {"clips": 0, "seconds": 0.0})
            entry["clips"] += 1
            entry["seconds"] = max(entry["seconds"], clip.end_seconds)
        found[version] = dict(sorted(recordings.items()))
    if options.json:
        print(json.dumps({"store": store.name, "models": found}, indent=2))
        return 0
    print(f"store       {store.name}")
    for version, recordings in found.items():
        hours = sum(entry["seconds"] for entry in recordings.values()) / 3600
        print(
            f"model       {version}: {models[version]} clips, {len(recordings)} recordings, "
            f"{hours:.2f} h"
        )
        for name, entry in recordings.items():
            print(f"    {entry['clips']:6d} clips  {clock(entry['seconds']):>10}  {name}")
    return 0


def forget(options: argparse.Namespace, store: ClipStore) -> int:
    """Removes the clips of a model, or of a recording."""
    count = store.delete(model_version=options.name) or store.delete(recording=options.name)
    if not count:
        raise UserError(
            f"{store.name} has no clip of a model or recording {options.name}: "
            "python search_clips.py list names them"
        )
    print(f"{count} clips were removed")
    return 0


def load_model(options: argparse.Namespace, *, for_many: bool = False) -> SearchModel:
    """The network of a checkpoint, or the trunk alone where there is none and none was named.

    For a question what was kept of it is enough; `for_many` recordings a GPU is used.
    """
    path, model = options.checkpoint or default_checkpoint(), None
    if path.is_file() and not for_many:
        model = SearchModel.kept(options.cache_dir, model_version(path), path)
    if model is None:
        model = _load_network(path, options)
    print(f"model       {model.version}: {model.note}", file=sys.stderr)
    return model


def open_holdings(text: str, model: SearchModel, options: argparse.Namespace) -> Holdings:
    """The recordings of a source, or of a feature store."""

    def open_place(place: str) -> Source:
        return open_source(place, options.cache_dir / FETCHED, S3Folder)

    def say(line: str) -> None:
        print(f"note: {line}", file=sys.stderr)

    if is_feature_store(Path(text)):
        return read_holdings(
            Path(text), model.spec, classes=model.classes, open_place=open_place, say=say
        )
    return prepare_holdings(
        open_place(text),
        model.spec,
        options.cache_dir,
        classes=model.classes,
        workers=options.workers,
        say=say,
    )


def open_finder(options: argparse.Namespace, store: ClipStore, model: SearchModel) -> Finder:
    """What answers, as the store is now. Raises UserError where it holds nothing of this model."""
    finder = Finder.open(store, model, options.cache_dir)
    if finder.index_note:
        print(f"note: {finder.index_note}: every clip is compared", file=sys.stderr)
    if finder.num_without_features:
        print(
            f"note: {finder.num_without_features} recordings have no features on this machine: "
            "they have no pictures, and the same spot is not looked for in them",
            file=sys.stderr,
        )
    return finder


def say_places(
    options: argparse.Namespace,
    asked: Stretch,
    same: Sequence[Place],
    similar: Sequence[Place],
    finder: Finder,
) -> None:
    """Prints the answers, and writes the page if one is wanted."""
    when = times(asked.start_seconds, asked.end_seconds)
    if options.json:
        document = {
            "file": str(options.file),
            "start_seconds": asked.start_seconds,
            "end_seconds": asked.end_seconds,
            "same": [asdict(place) for place in same],
            "similar": [asdict(place) for place in similar],
        }
        print(json.dumps(document, indent=2))
    else:
        if options.same:
            print(how_often(len(same)))
        print("\n".join(place_lines([*same, *similar])))
    if options.html:
        places = [*same, *similar]
        picture = small_pictures(asked.frames, asked.aspect_ratio)
        write_page(
            options.html,
            title=f"Like {options.file.name}",
            lead=" ".join([how_often(len(same))] * options.same + [how_similar(len(similar))]),
            cards=[place_card(number, place, finder) for number, place in enumerate(places, 1)],
            asked=Card("Asked for", picture, (Line(str(options.file), when),)),
        )
        print(f"written {options.html}", file=sys.stderr)


def _load_network(path: Path, options: argparse.Namespace) -> SearchModel:
    # Not above: they import torch, which takes longer than all the rest of a question.
    from training.checkpoint import load_checkpoint
    from training.device import choose_device
    from training.weights import find_weights, new_model

    if options.checkpoint or path.exists():
        model = SearchModel.of(load_checkpoint(path, choose_device()), model_version(path), path)
        model.keep(options.cache_dir)
        return model
    config = make_config(read_constants(SCRIPT), {})
    weights, source = find_weights(options.weights)
    encoder = new_model(config, 2, weights).video_encoder.to(choose_device())
    note = f"the trunk alone, {source}: {path} is not there yet"
    return SearchModel.of_trunk(encoder, config.feature_spec, note)


def _bar(total: int, title: str, unit: str) -> tqdm:
    return tqdm(total=total, desc=title, unit=unit, delay=1, leave=False)


# Options


def _read_options() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--checkpoint", type=Path, help=f"what a training left [{default_checkpoint()}]")
    add("--weights", default="imagenet", help="of the trunk without a checkpoint [%(default)s]")
    add("--cache-dir", type=Path, default=CACHE_DIR, help="what is remembered [%(default)s]")
    add("--store", metavar="URL", help="mongodb:// or an SQLite file [MONGODB_URL, or the cache's]")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(
        prog="python search_clips.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, parents=[common], help=help, description=help)
        found.set_defaults(run=run)
        return found

    add = command(
        "index", index, "bring recordings into the store, and build the index"
    ).add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder, list of files, s3://bucket/prefix")
    add("--workers", type=int, default=0, help="decoding processes [one a core]")
    add("--index", choices=KINDS, default="auto", help="how neighbours are found [%(default)s]")
    add = command("query", query, "find what is like a file, or a part of it").add_argument
    add("file", type=Path, metavar="FILE")
    add("--start", type=float, default=0.0, metavar="S", help="seconds from the first picture")
    add("--end", type=float, metavar="S")
    add("-k", type=int, default=10, help="answers [%(default)s]")
    add("--label", help="answers of this class alone")
    add("--same", action="store_true", help="the same spot first, by its fingerprint")
    add("--html", type=Path, metavar="FILE", help="write a page with pictures")
    add = command("airings", airings, "say how often and when each spot ran").add_argument
    add("--label", help="spots of this class alone")
    add("--html", type=Path, metavar="FILE", help="write a page with pictures")
    command("list", list_store, "say what the store holds")
    add = command("forget", forget, "remove the clips of a model, or of a recording").add_argument
    add("name", metavar="NAME", help="of a model or a recording, as `list` gives it")
    options = parser.parse_args()
    if getattr(options, "k", 1) < 1:
        parser.error("-k is the number of answers: 1 or more")
    end = getattr(options, "end", None)
    if end is not None and end <= options.start:
        parser.error("--end lies behind --start")
    return options


if __name__ == "__main__":
    run_main(main)
