"""The rules of editing hold for every list of segments: the page's own modules, run with node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parent.parent / "web" / "static"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: install Node.js")

START = """
import assert from "node:assert/strict";
import * as edits from %(module)s;
const FRAME = 0.04;
const made = (...parts) => {
  let at = 0;
  return parts.map(([label, seconds, unsure = false]) => {
    const span = { start_seconds: at, end_seconds: (at += seconds) };
    return Object.freeze({ ...span, label, confidence: 0.9, unsure });
  });
};
const one = (s) => `${s.label ?? "-"} ${s.start_seconds}-${s.end_seconds}`;
const said = (segments) => segments.map(one).join(" ");
const game = Object.freeze(made(["games", 60], ["ads", 30, true], ["games", 90]));
"""


def run(script: str, module: str = "edits.js") -> None:
    """Runs a module of node that imports ours; what it asserts is to hold."""
    source = START % {"module": json.dumps((STATIC / module).as_uri())} + script
    command = ["node", "--input-type=module", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_edge_moves_as_far_as_its_segments_last():
    run("""
    const moved = (seconds) => said(edits.moveEdge(game, 1, seconds, FRAME));
    assert.equal(moved(58.5), "games 0-58.5 ads 58.5-90 games 90-180");
    assert.equal(moved(-5), "games 0-0.04 ads 0.04-90 games 90-180");
    assert.equal(moved(500), "games 0-89.96 ads 89.96-90 games 90-180");
    for (const nothing of [0, 3, -1]) assert.equal(edits.moveEdge(game, nothing, 10, FRAME), game);
    assert.equal(edits.moveEdge(game, 1, 60, FRAME), game);
    """)


def test_segment_is_cut_where_both_parts_last_a_frame():
    run("""
    assert.equal(said(edits.split(game, 70, FRAME)), "games 0-60 ads 60-70 ads 70-90 games 90-180");
    for (const at of [0, 60, 60.01, 89.99, 180]) assert.equal(edits.split(game, at, FRAME), game);
    """)


def test_label_joins_neighbours_that_have_it():
    run("""
    assert.equal(said(edits.setLabel(game, 1, "games")), "games 0-180");
    assert.equal(said(edits.setLabel(game, 0, "ads")), "ads 0-90 games 90-180");
    assert.equal(said(edits.setLabel(game, 2, null)), "games 0-60 ads 60-90 - 90-180");
    const sure = edits.setLabel(game, 1, "ads");
    assert.equal(said(sure), said(game));
    assert.equal(sure[1].unsure, false);
    assert.equal(edits.setLabel(sure, 1, "ads"), sure);
    """)


def test_merging_keeps_the_label_of_the_first():
    run("""
    assert.equal(said(edits.mergeWithNext(game, 0)), "games 0-90 games 90-180");
    assert.equal(said(edits.mergeWithNext(edits.split(game, 70, FRAME), 1)), said(game));
    assert.equal(edits.mergeWithNext(game, 2), game);
    """)


def test_range_is_painted_over_whatever_was_there():
    run("""
    const paint = (start, end, label) => said(edits.paint(game, start, end, label, FRAME));
    assert.equal(paint(10, 20, "ads"), "games 0-10 ads 10-20 games 20-60 ads 60-90 games 90-180");
    assert.equal(paint(50, 100, "ads"), "games 0-50 ads 50-100 games 100-180");
    assert.equal(paint(0, 180, null), "- 0-180");
    assert.equal(paint(60, 90, "games"), "games 0-180");
    assert.equal(paint(60.01, 200, "news"), "games 0-60 news 60-180");
    assert.equal(paint(70, 70, "news"), said(game));
    """)


def test_segments_cover_the_recording_whatever_is_done():
    """Thousands of random edits: no gap, no overlap, nothing shorter than a frame, nothing changed
    in the list that was given, and all of it can be undone and done again."""
    run("""
    let seed = 7;
    const random = () => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648;
    const labels = ["ads", "games", "news", null];
    const pick = () => labels[Math.floor(random() * labels.length)];
    const rules = [
      (s) => edits.moveEdge(s, Math.floor(random() * (s.length + 2)), random() * 190 - 5, FRAME),
      (s) => edits.split(s, random() * 190 - 5, FRAME),
      (s) => edits.mergeWithNext(s, Math.floor(random() * (s.length + 1))),
      (s) => edits.setLabel(s, Math.floor(random() * (s.length + 1)), pick()),
      (s) => {
        const start = random() * 190 - 5;
        return edits.paint(s, start, start + random() * 40, pick(), FRAME);
      },
    ];
    let history = edits.begin({ segments: game, corrected: false, what: "" });
    const texts = [said(game)];
    for (let turn = 0; turn < 3000; turn += 1) {
      const before = history.present.segments;
      const text = said(before);
      const after = rules[Math.floor(random() * rules.length)](before);
      assert.equal(said(before), text);
      if (after === before) continue;
      after.forEach(Object.freeze);
      assert.equal(after[0].start_seconds, 0);
      assert.equal(after.at(-1).end_seconds, 180);
      after.forEach((segment, k) => {
        if (k) assert.equal(segment.start_seconds, after[k - 1].end_seconds);
        const seconds = segment.end_seconds - segment.start_seconds;
        assert.ok(seconds >= FRAME - 2e-6, `${turn}: ${one(segment)}`);
      });
      history = edits.changed(history, { segments: after, corrected: true, what: "" });
      texts.push(said(after));
    }
    assert.ok(texts.length > 1500);
    const last = history;
    for (let k = texts.length - 2; k >= 0; k -= 1) {
      history = edits.undone(history);
      assert.equal(said(history.present.segments), texts[k]);
    }
    assert.equal(edits.undone(history).present, history.present);
    for (let k = 1; k < texts.length; k += 1) history = edits.redone(history);
    assert.equal(said(history.present.segments), said(last.present.segments));
    assert.equal(edits.redone(history).present, history.present);
    """)


def test_new_edit_forgets_what_was_undone():
    run("""
    const state = (what) => ({ segments: game, corrected: true, what });
    let history = edits.changed(edits.changed(edits.begin(state("a")), state("b")), state("c"));
    history = edits.changed(edits.undone(history), state("d"));
    assert.deepEqual(history.past.map((s) => s.what), ["a", "b"]);
    assert.equal(history.present.what, "d");
    assert.deepEqual(history.future, []);
    """)


def test_edges_and_segments_are_found_by_time():
    run("""
    const places = [-1, 0, 59.99, 60, 90, 500];
    assert.deepEqual(places.map((at) => edits.indexAt(game, at)), [0, 0, 0, 1, 2, 2]);
    assert.deepEqual([0, 70, 80, 179].map((at) => edits.nearestEdge(game, at)), [1, 1, 2, 2]);
    assert.equal(edits.nearestEdge(made(["ads", 5]), 2), -1);
    const next = (direction) => (at) => edits.nextEdge(game, at, direction, FRAME);
    assert.deepEqual([0, 60, 90].map(next(1)), [1, 2, -1]);
    assert.deepEqual([0, 60, 61, 180].map(next(-1)), [-1, -1, 1, 2]);
    assert.deepEqual([0, 60, 100].map((at) => edits.nextUnsure(game, at)), [1, 1, 1]);
    assert.equal(edits.nextUnsure(made(["ads", 5]), 0), -1);
    assert.deepEqual([10.3, 12].map((at) => edits.snapped(at, [10, 10.4, 20], 0.5)), [10.4, 12]);
    """)


def test_place_of_a_change_is_found():
    run("""
    const place = (other) => edits.firstDifference(game, other);
    assert.equal(place(game), null);
    assert.equal(place(edits.moveEdge(game, 2, 80, FRAME)), 80);
    assert.equal(place(edits.moveEdge(game, 2, 100, FRAME)), 90);
    assert.equal(place(edits.setLabel(game, 2, "news")), 90);
    assert.equal(place(edits.split(game, 120, FRAME)), 120);
    assert.equal(place(edits.mergeWithNext(game, 1)), 90);
    """)


def test_rows_of_the_server_become_a_cover():
    run("""
    const rows = [
      { start_seconds: 5, end_seconds: 8, label: "ads" },
      { start_seconds: 8, end_seconds: 12, label: "games" },
    ];
    assert.equal(said(edits.covering(rows, 10)), "- 0-5 ads 5-8 games 8-10");
    assert.equal(said(edits.covering(rows, 20)), "- 0-5 ads 5-8 games 8-12 - 12-20");
    assert.equal(said(edits.covering([], 20)), "- 0-20");
    assert.ok(edits.areSame(edits.covering(rows, 10), edits.covering([...rows], 10)));
    assert.ok(!edits.areSame(edits.covering(rows, 10), edits.covering(rows, 11)));
    assert.deepEqual(edits.toRows(game)[1], { start_seconds: 60, end_seconds: 90, label: "ads" });
    """)


SAVING = """
const { makeSaver } = await import(%(module)s);
const state = (what) => ({ segments: [], corrected: true, what });
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const sent = [], said_ = [];
let answer = async () => {};
let verdict = "wait";
const saver = makeSaver({
  send: async (s) => { sent.push(s.what); await answer(s); },
  settle: async () => verdict,
  onState: (words) => said_.push(words),
});
"""


def run_saving(script: str) -> None:
    run(SAVING % {"module": json.dumps((STATIC / "saving.js").as_uri())} + script)


def test_changes_in_a_row_are_saved_once_and_the_last_one_counts():
    run_saving("""
    for (const what of ["a", "b", "c"]) saver.change(state(what));
    assert.ok(saver.isDirty());
    await wait(700);
    assert.deepEqual(sent, ["c"]);
    assert.equal(said_.at(-1), "saved");
    assert.ok(!saver.isDirty());
    """)


def test_change_made_while_saving_is_saved_after_it():
    run_saving("""
    let finish;
    answer = () => new Promise((resolve) => (finish = resolve));
    saver.change(state("a"));
    const first = saver.saveNow();
    saver.change(state("b"));
    await wait(500);
    assert.deepEqual(sent, ["a"]);  // one request at a time
    answer = async () => {};
    finish();
    await first;
    await wait(100);
    assert.deepEqual(sent, ["a", "b"]);
    assert.equal(said_.at(-1), "saved");
    """)


def test_server_that_is_away_is_tried_again():
    run_saving("""
    answer = async () => { throw Object.assign(new Error("away"), { status: 0 }); };
    saver.change(state("a"));
    await wait(600);
    assert.equal(said_.at(-1), "not saved: away");
    answer = async () => {};
    await wait(1200);
    assert.deepEqual(sent, ["a", "a"]);
    assert.equal(said_.at(-1), "saved");
    """)


def test_refusal_is_not_repeated_by_itself():
    run_saving("""
    const refused = Object.assign(new Error("no"), { status: 409, kind: "unknown_file" });
    answer = async () => { throw refused; };
    verdict = "leave";
    saver.change(state("a"));
    await wait(600);
    saver.change(state("b"));
    await wait(600);
    assert.deepEqual(sent, ["a"]);
    assert.ok(saver.isDirty());
    verdict = "again";
    const saving = saver.saveNow();
    answer = async () => {};
    await saving;
    assert.deepEqual(sent, ["a", "b", "b"]);
    assert.equal(said_.at(-1), "saved");
    """)
