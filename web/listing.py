"""Listing: each recording in a line, as it is now, for the list that the page opens with."""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from timeline.timeline import Timeline
from utils.files import stamp_file, write_whole
from web.library import Recording
from web.review_queue import expected_wrong_seconds

if TYPE_CHECKING:
    from web.services import Services

SOON_SECONDS = 0.05  # that a list may wait for summaries which are not made yet
REST_SECONDS = 0.002  # between two of them that are made while nobody waits
SAVE_SECONDS = 10.0
VERSION = 1  # raise it when a summary says more
LOG = logging.getLogger("web")


@dataclass(frozen=True)
class Summary:
    """What a timeline comes to."""

    label: str | None  # of the whole
    ads_share: float  # of its time, 0 to 1
    breaks: int
    unsure: int  # segments
    expected_wrong_seconds: float
    duration_seconds: float  # of what was decoded, which is better than what the file says


class Listing:
    """The lines of the list. Reading all timelines takes minutes, so what they come to is kept."""

    def __init__(self, services: "Services"):
        self._services = services
        self._summaries = _Summaries(services, services.settings.review_dir / "summaries.json")

    def lines(self, recordings: Sequence[Recording]) -> list[dict]:
        """What is known of each; of new timelines what can be found out at once, the rest soon."""
        jobs = self._services.jobs.of_recording()
        summaries = self._summaries.find(recordings)
        lines = []
        for recording, (is_there, is_outdated, summary) in zip(recordings, summaries, strict=True):
            job = jobs.get(recording.id)
            more = {"outdated": is_outdated, "job": job and job.to_api()}
            lines.append(self._line(recording, is_there, summary) | more)
        return lines

    def _line(self, recording: Recording, is_there: bool, summary: Summary | None) -> dict:
        state, said = "labelled" if is_there else "not_labelled", {}
        if summary is not None:
            said = vars(summary)  # asdict copies deeply, which takes ten times as long
        corrected = self._services.corrections.read(recording) if recording.editable else None
        if corrected is not None:
            state, said = "corrected", vars(_corrected(corrected.timeline))
        if not recording.editable:
            state, said = "training_clip", {**said, "label": recording.label}
        info = recording.probe
        known_seconds = said.get("duration_seconds") or (info and info.duration_seconds) or None
        return {
            "id": recording.id,
            "name": recording.name,
            "folder": recording.folder,
            "size_bytes": recording.size_bytes,
            "modified": recording.modified,
            "duration_seconds": known_seconds,
            "state": state,
            "label": said.get("label"),
            "ads_share": said.get("ads_share"),
            "breaks": said.get("breaks"),
            "unsure": said.get("unsure"),
            "expected_wrong_seconds": said.get("expected_wrong_seconds"),
            "editable": recording.editable,
            "error": recording.error,
        }

    def close(self) -> None:
        """Stops making summaries, and keeps those that there are."""
        self._summaries.close()


class _Summaries:
    """What timelines come to, by the model and the stamps of the files that say so."""

    def __init__(self, services: "Services", file: Path):
        self._services = services
        self._file = file
        self._changed = threading.Condition()
        self._known: dict[str, tuple[list, Summary | None]] | None = None
        self._wanted: dict[str, tuple[list, Recording]] = {}
        self._thread: threading.Thread | None = None

    def find(self, recordings: Sequence[Recording]) -> list[tuple[bool, bool, Summary | None]]:
        """Of each, whether the model in use said something, whether only another one did, or of
        another file, and what it comes to if that is known.

        Until it is, a recording that any model labelled counts as one that this one did.
        """
        stamps = self._stamps(recordings)
        missing = {r.id: (stamps[r.id], r) for r in recordings if r.id in stamps}
        deadline = time.monotonic() + SOON_SECONDS
        with self._changed:
            known = self._load()
            for id, (stamp, _) in list(missing.items()):
                if known.get(id, (None,))[0] == stamp:
                    del missing[id]
            self._want(missing)
            while self._wanted and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            found = []
            for recording in recordings:
                stamp = stamps.get(recording.id)
                known_stamp, summary = known.get(recording.id, (None, None))
                is_known = known_stamp == stamp
                is_there = stamp is not None and (summary is not None or not is_known)
                is_outdated = stamp is not None and not is_there
                found.append((is_there, is_outdated, summary if is_there and is_known else None))
            return found

    def close(self) -> None:
        with self._changed:
            self._wanted = {}
            thread = self._thread
        if thread is not None:
            thread.join()

    def _stamps(self, recordings: Sequence[Recording]) -> dict[str, list]:
        """What a summary depends on, of those of which there is anything in the ledger."""
        model = self._services.model.find()
        if model is None:
            return {}
        ledger = model.ledger(self._services.settings.labelled_dir, quick=False)
        stamps = {}
        for recording in recordings:
            try:
                entry = stamp_file(ledger.place(recording.path))
            except OSError:
                continue
            stamps[recording.id] = [ledger.way, *entry, *recording.stamp]
        return stamps

    def _want(self, wanted: dict[str, tuple[list, Recording]]) -> None:
        self._wanted = wanted
        if wanted and self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="summaries")
            self._thread.start()

    def _work(self) -> None:
        """Makes what is wanted, keeps it, and ends."""
        while True:
            self._make_wanted()
            self._save()
            with self._changed:
                if not self._wanted:
                    self._thread = None  # only now: `close` waits until all is kept
                    return

    def _make_wanted(self) -> None:
        saved_at = time.monotonic()
        while True:
            with self._changed:
                if not self._wanted:
                    return
                id = next(iter(self._wanted))
                stamp, recording = self._wanted[id]
            try:
                summary = self._make(recording)
            except Exception:  # the others are to be made all the same
                LOG.exception("the timeline of %s can't be summed up", recording.name)
                summary = None
            with self._changed:
                self._load()[id] = stamp, summary
                self._wanted.pop(id, None)
                self._changed.notify_all()
            if time.monotonic() - saved_at > SAVE_SECONDS:
                saved_at = time.monotonic()
                self._save()
            time.sleep(REST_SECONDS)

    def _make(self, recording: Recording) -> Summary | None:
        model = self._services.model.find()
        labelled = self._services.timelines.find(recording)
        if labelled is None or model is None:
            return None
        wrong_seconds = sum(expected_wrong_seconds(labelled))
        return _summary(labelled.timeline, model.overall(labelled)["label"], wrong_seconds)

    def _load(self) -> dict[str, tuple[list, Summary | None]]:
        if self._known is None:
            self._known = dict(_read(self._file))
        return self._known

    def _save(self) -> None:
        with self._changed:
            kept = {
                id: [stamp, summary and asdict(summary)]
                for id, (stamp, summary) in self._load().items()
            }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"version": VERSION, "summaries": kept}).encode())
        except OSError as error:  # the next start makes them again
            LOG.warning("what timelines come to can't be kept in %s: %s", self._file, error)


def _read(file: Path) -> Iterator[tuple[str, tuple[list, Summary | None]]]:
    try:
        document = json.loads(file.read_bytes())
        if document["version"] == VERSION:
            for id, (stamp, values) in document["summaries"].items():
                yield id, (stamp, values and Summary(**values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none yet, or damaged


def _corrected(timeline: Timeline) -> Summary:
    """What a correction comes to: of it nothing is unsure."""
    seconds: dict[str, float] = {}
    for segment in timeline.segments:
        seconds[segment.label] = seconds.get(segment.label, 0.0) + segment.seconds
    label = max(seconds, key=seconds.get, default=None)
    return _summary(timeline, label, 0.0, unsure=0)


def _summary(
    timeline: Timeline, label: str | None, wrong_seconds: float, *, unsure: int | None = None
) -> Summary:
    ads_seconds = sum(segment.seconds for segment in timeline.breaks)
    if unsure is None:
        unsure = sum(segment.unsure for segment in timeline.segments)
    return Summary(
        label=label,
        ads_share=round(ads_seconds / max(timeline.duration_seconds, 1e-9), 4),
        breaks=len(timeline.breaks),
        unsure=unsure,
        expected_wrong_seconds=round(wrong_seconds, 2),
        duration_seconds=timeline.duration_seconds,
    )
