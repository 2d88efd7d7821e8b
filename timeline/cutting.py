"""Cutting: a copy of a recording without its ads, or of nothing but them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from timeline.player_times import shown
from timeline.timeline import Timeline
from utils.encoding import ENCODERS
from utils.labels import BREAK_LABEL
from utils.media import opened, video_stream
from utils.muxing import (
    CHAPTER_SUFFIXES,
    Chapter,
    MuxError,
    OnProgress,
    WrittenCopy,
    check_output,
    copy_with_chapters,
    output_suffix,
)
from utils.picture_index import PictureIndex, read_index
from utils.splicing import Run, Span, splice

CUT_MODES = ("copy", "exact")
# Where copied and encoded pictures may follow each other in one track. H.264 numbers its parameter
# sets, so that both fit into a header; HEVC and MPEG-2 repeat theirs among the pictures, which
# Matroska and transport streams are played with, MP4 by some only.
MIXES = {
    "h264": (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".m2ts", ".mts"),
    "hevc": (".mkv", ".ts", ".m2ts", ".mts"),
    "mpeg2video": (".mkv", ".ts", ".m2ts", ".mts"),
}
# After a key frame that does not reset a decoder H.264's order of showing may be wrong for as many
# as 16 pictures, which are then dropped. They had better be of what is to go.
SETTLE_SECONDS = 0.8
MIN_COPIED_SECONDS = 1.0  # less is not worth a change between encoders


@dataclass(frozen=True)
class CutPlan:
    """What a cut does, known before a picture is decoded; `lines` says it to a person."""

    source: Path
    drop: str  # "ads", or "games" for all else
    mode: str
    index: PictureIndex
    spans: tuple[Span, ...]
    encode_all: bool
    whole_seconds: float  # of the recording
    kept_seconds: float  # of the copy
    encoded_seconds: float  # of it, pictures encoded anew
    stray_seconds: float  # of it, what was to go: copies begin at key frames
    uncut: int  # breaks that stay as they are too short to be cut between key frames
    may_stutter: bool  # at the joins, as key frames do not reset a decoder

    @property
    def lines(self) -> tuple[str, ...]:
        dropped = self.whole_seconds - self.kept_seconds
        lines = [f"{self.source.name}: {dropped:.1f} of {self.whole_seconds:.1f} s go"]
        what = BREAK_LABEL if self.drop == BREAK_LABEL else "play"
        if self.stray_seconds:
            uncut = f", {self.uncut} whole" if self.uncut else ""
            lines.append(
                f"{self.stray_seconds:.1f} s of {what} stay{uncut}, as a copy can be cut at key "
                "frames only: --cut-mode exact cuts at the picture"
            )
        if self.may_stutter:
            lines.append(
                f"its key frames do not reset a decoder: a few pictures of {what} may stutter at a "
                "join, which --cut-mode exact avoids"
            )
        if self.encode_all:
            lines.append(f"all {self.encoded_seconds:.0f} s of pictures are encoded anew")
        elif self.encoded_seconds:
            lines.append(
                f"{self.encoded_seconds:.1f} s of pictures next to cuts are encoded anew, the rest "
                "is copied"
            )
        return tuple(lines)


def cut_path(recording: Path, drop: str, folder: Path | None = None) -> Path:
    """Returns where a cut copy goes: `game.without-ads.mp4` or `game.ads-only.mp4`."""
    what = "without-ads" if drop == BREAK_LABEL else f"{BREAK_LABEL}-only"
    name = f"{recording.stem}.{what}{output_suffix(recording)}"
    return (folder or recording.parent) / name


def plan_cut(source: Path, timeline: Timeline, *, drop: str, mode: str, suffix: str) -> CutPlan:
    """Returns what cutting away a timeline's ads, or all but them, into a file of that suffix does.

    `drop` is "ads" or any other word for all else. "copy" encodes nothing; no picture that is to
    stay goes, some that are to go stay. "exact" cuts at the picture: it encodes anew what is
    between an edge and the next key frame or, where the container or codec does not allow a
    mixture, everything. Raises MuxError where nothing is to go, or everything.
    """
    if mode not in CUT_MODES:
        raise ValueError(f"unknown mode {mode!r}: the modes are {', '.join(CUT_MODES)}")
    index = read_index(source)
    wanted = _wanted(timeline, index, drop)
    with opened(source) as container:
        codec = video_stream(container).codec_context.name
    if mode == "copy":
        spans = _copied(source, index, wanted, codec)
    else:
        can_mix = suffix.lower() in MIXES.get(codec, ())
        spans = _exact(source, index, wanted, codec, can_mix=can_mix)
    kept = sum(span.end - span.start for span in spans)
    encoded = sum(r.end - r.start for span in spans for r in span.runs if not r.is_copied)
    return CutPlan(
        source=source,
        drop=drop,
        mode=mode,
        index=index,
        spans=spans,
        encode_all=not any(run.is_copied for span in spans for run in span.runs),
        whole_seconds=index.seconds(index.end),
        kept_seconds=index.seconds(kept),
        encoded_seconds=index.seconds(encoded),
        stray_seconds=index.seconds(kept - sum(end - start for start, end in wanted)),
        uncut=len(wanted) - len(spans),
        may_stutter=mode == "copy"
        and codec == "h264"
        and not all(index.is_fresh[span.runs[0].first] for span in spans[1:]),
    )


def cut(
    plan: CutPlan,
    target: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> WrittenCopy:
    """Writes what was planned, whole or not at all; returns the copy and what it lacks.

    Sound is copied, to the nearest packet (about 10 ms). Raises MuxError, MediaError.
    """
    check_output(target, [plan.source], overwrite=overwrite)
    notes = splice(
        plan.source,
        target,
        plan.index,
        plan.spans,
        encode_all=plan.encode_all,
        on_progress=on_progress,
    )
    return WrittenCopy(target, notes)


def timeline_chapters(timeline: Timeline) -> list[Chapter]:
    """Returns a chapter for each segment, named as in files of chapters; from the first picture."""
    return [
        Chapter(one.start_ms / 1000, one.end_ms / 1000, one.title)
        for one in shown(replace(timeline, zero_seconds=0.0))
    ]


def write_chapters_into(
    source: Path,
    timeline: Timeline,
    folder: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> WrittenCopy:
    """Writes a copy of a recording with a chapter for each segment into a folder; see
    utils.muxing.copy_with_chapters. What has no chapters (TS, AVI) becomes `.mkv`."""
    target = folder / (source.stem + output_suffix(source, CHAPTER_SUFFIXES))
    return copy_with_chapters(
        source, target, timeline_chapters(timeline), overwrite=overwrite, on_progress=on_progress
    )


def _wanted(timeline: Timeline, index: PictureIndex, drop: str) -> list[tuple[int, int]]:
    """Returns [start, end) ticks of what stays, from picture to picture, neighbours in one."""
    drops_ads = drop == BREAK_LABEL
    wanted: list[tuple[int, int]] = []
    for segment in timeline.segments:
        if (segment.label == BREAK_LABEL) == drops_ads:
            continue
        start = index.picture_at(index.ticks(segment.start_seconds))
        end = index.picture_at(index.ticks(segment.end_seconds))
        if segment is timeline.segments[-1]:
            end = index.end  # a timeline's own length is a little off where the file's was
        if wanted and start <= wanted[-1][1]:
            wanted[-1] = (wanted[-1][0], end)
        elif start < end:
            wanted.append((start, end))
    whole = index.end - index.start
    if not wanted:
        raise MuxError(f"{timeline.recording} is nothing but {drop}: cutting would leave nothing")
    if sum(end - start for start, end in wanted) >= whole - 1:
        raise MuxError(f"{timeline.recording} has no {drop} to cut")
    return wanted


def _copied(
    source: Path, index: PictureIndex, wanted: Sequence[tuple[int, int]], codec: str
) -> tuple[Span, ...]:
    """Returns what a copy has to hold so that all that is wanted is in it."""
    if not index.has_order:
        raise MuxError(
            f"{source.name} is an AVI whose pictures are stored in another order than shown, and "
            "without times: pass --cut-mode exact"
        )
    settle = round(SETTLE_SECONDS / index.time_base)
    spans: list[list[int]] = []
    for start, end in wanted:
        key = index.key_before(start)
        if spans and codec == "h264" and not index.is_fresh[key]:
            key = index.key_before(start - settle)
        first = int(index.pts[key])
        _, until = index.boundary_after(end)
        if spans and first < spans[-1][1]:
            spans[-1][1] = until
        else:
            spans.append([first, until])
    if sum(end - start for start, end in spans) >= index.end - index.start - 1:
        raise MuxError(
            f"{source.name} has key frames too far apart for a copy without what is to go: pass "
            "--cut-mode exact"
        )
    return tuple(Span(start, end, (_copy_run(index, start, end),)) for start, end in spans)


def _exact(
    source: Path,
    index: PictureIndex,
    wanted: Sequence[tuple[int, int]],
    codec: str,
    *,
    can_mix: bool,
) -> tuple[Span, ...]:
    """Returns what is wanted to the picture."""
    if index.has_order and index.is_key.all():
        return tuple(Span(start, end, (_copy_run(index, start, end),)) for start, end in wanted)
    if codec not in ENCODERS:
        raise MuxError(
            f"{source.name} has {codec} pictures, which nothing here encodes: pass --cut-mode copy"
        )
    can_mix = can_mix and index.has_order
    return tuple(_mixed(index, start, end, can_mix=can_mix) for start, end in wanted)


def _copy_run(index: PictureIndex, start: int, end: int) -> Run:
    last, _ = index.boundary_after(end)
    return Run(start, end, index.key_before(start), last, is_copied=True)


def _mixed(index: PictureIndex, start: int, end: int, *, can_mix: bool) -> Span:
    """Returns a span whose pictures are copied from its first fresh key frame on, as far as goes.

    #   pictures   ..P..|..P..P..I=====P=====P=====P..P.|.
    #              encoded       copied           encoded
    """
    fresh = np.flatnonzero(index.is_fresh & (index.pts >= start) & (index.pts < end))
    if can_mix and len(fresh):
        key = int(index.pts[fresh[0]])
        last, until = index.boundary_before(end)
        if index.seconds(until - key) >= MIN_COPIED_SECONDS:
            runs = [Run(key, until, int(fresh[0]), last, is_copied=True)]
            if start < key:
                runs.insert(0, _encoded_run(index, start, key))
            if until < end:
                runs.append(_encoded_run(index, until, end))
            return Span(start, end, tuple(runs))
    return Span(start, end, (_encoded_run(index, start, end),))


def _encoded_run(index: PictureIndex, start: int, end: int) -> Run:
    last, _ = index.boundary_after(end)
    return Run(start, end, index.key_before(start, spare=True), last, is_copied=False)
