"""Label files become spans, and a file with a mistake is refused with the line it is in."""

import json
import math

import pytest

from utils.labels import LabelError, Span, parse_labels

INF = math.inf


def spans(name: str, text: str) -> list[tuple[float, float, str]]:
    found = parse_labels(name, text.encode())
    for span, following in zip(found, found[1:], strict=False):
        assert span.start_seconds < span.end_seconds <= following.start_seconds
    return [(span.start_seconds, span.end_seconds, span.label) for span in found]


def refusal(name: str, text: str | bytes) -> str:
    with pytest.raises(LabelError) as error:
        parse_labels(name, text.encode() if isinstance(text, str) else text)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"{name}")
    return said


def as_json(*segments: tuple) -> str:
    names = ("start_seconds", "end_seconds", "label")
    rows = [dict(zip(names, segment, strict=True)) | {"confidence": 0.9} for segment in segments]
    return json.dumps({"recording": "game.ts", "segments": rows, "version": 1})


BREAKS = [
    (0.0, 60.0, "games"),
    (60.0, 90.5, "ads"),
    (90.5, 3600.0, "games"),
    (3600.0, 3720.0, "ads"),
    (3720.0, INF, "games"),
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.edl", "60 90.5 3\n3600\t3720\t0\n"),
        ("a.EDL", "## made by a recorder\r\n\r\n0:01:00.000 1:30.5 3\r\n1:00:00 1:02:00 3\r\n"),
        ("a.edl", "10 20 1\n60.00 90.50 3\n70 2\n3600 3720 3\n100 100 2"),
        ("a.csv", "60,90.5,ads\n3600,3720,ads\n"),
        ("a.csv", "\ufeffstart_seconds,end_seconds,label\r\n3600,3720,ads\r\n60,90.5,ads\r\n\r\n"),
        ("a.csv", "Label, Note, End_Seconds, Start_Seconds\nads,,90.5,60\nads,x,3720,3600"),
        ("a.csv", "start_seconds;end_seconds;label\n60;90,5;ads\n1:00:00;1:02:00;ads"),
        ("a.csv", "60\t90.5\tads\n3600\t3720\tads"),
        ("a.json", as_json((60, 90.5, "ads"), (3600, "1:02:00", "ads"))),
    ],
)
def test_breaks_are_ads_and_the_rest_is_games(name, text):
    assert spans(name, text) == BREAKS


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.edl", ""), ("a.csv", "start_seconds,end_seconds,label"), ("a.json", '{"segments": []}')],
)
def test_file_without_a_break_is_a_game_throughout(name, text):
    assert spans(name, text) == [(0.0, INF, "games")]


def test_break_at_the_start_leaves_no_empty_span_before_it():
    assert spans("a.edl", "0 30 3") == [(0.0, 30.0, "ads"), (30.0, INF, "games")]


def test_stretch_with_the_label_null_is_seen_and_shows_neither():
    text = as_json((0, 10, "ads"), (10, 20, None), (20, 30, "ads"))
    assert spans("a.json", text) == [(0, 10, "ads"), (20, 30, "ads")]
    with pytest.raises(LabelError, match="from 5 s on it is"):
        parse_labels("a.json", as_json((0, 10, "ads"), (5, 20, None)).encode())


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_file_that_names_other_labels_says_all_there_is(name):
    rows = [(0, 10, "ads"), (10, 20, "games"), (30, 40, "replays")]
    text = as_json(*rows) if name == "a.json" else "\n".join(",".join(map(str, r)) for r in rows)
    assert spans(name, text) == [(0, 10, "ads"), (10, 20, "games"), (30, 40, "replays")]


def test_spans_of_one_label_that_touch_or_overlap_are_joined():
    text = "0,30,ads\n30,60,ads\n50,70,ads\n55,58,ads\n80,90,games"
    assert spans("a.csv", text) == [(0, 70, "ads"), (80, 90, "games")]


def test_infinite_end_is_the_end_of_the_recording():
    text = as_json((0, 10, "ads"), (10, math.inf, "replays"))
    assert spans("a.json", text) == [(0, 10, "ads"), (10, INF, "replays")]


def test_times_that_differ_by_rounding_touch():
    text = as_json((0, 0.1 + 0.2, "ads"), (0.3, 1, "games"))
    assert spans("a.json", text) == [(0, 0.3, "ads"), (0.3, 1, "games")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "0,30,ads\n20,40,games", "from 20 s on it is ads and games at once"),
        ("a.csv", "0,100,ads\n10,20,ads\n30,40,games", "from 30 s on it is ads and games at once"),
        ("a.csv", "30,20,ads", "line 1 ends at 20 and starts at 30"),
        ("a.edl", "1 2 3\n\n30 30 3", "line 3 ends at 30 and starts at 30"),
        ("a.csv", "-5,20,ads", "line 1 has the time '-5'"),
        ("a.csv", "0:-5,20,ads", "line 1 has the time '0:-5'"),
        ("a.csv", "start_seconds,end_seconds,label\n1,x,ads", "line 2 has the time 'x'"),
        ("a.csv", "1,nan,ads", "line 1 has the time 'nan'"),
        ("a.csv", "1,inf,ads", "line 1 has the time 'inf'"),
        ("a.csv", "1,2", "line 1 has 2 cells"),
        ("a.csv", "1,2,", "line 1 has no label"),
        ("a.csv", "from,to,label\n1,2,ads", "the header lacks start_seconds, end_seconds"),
        ("a.edl", "TITLE: Final cut\nFCM: NON-DROP FRAME", "line 1 is 'TITLE: Final cut', not"),
        ("a.edl", "10 20", "line 1 is '10 20', not `start end action`"),
        ("a.edl", "10 20 7", "action from 0 to 3"),
        ("a.edl", "#240 #480 3", "line 1 counts frames (#240): write seconds"),
        ("a.json", "[]", 'not {"segments": [...]}'),
        ("a.json", "{", 'not {"segments": [...]}'),
        ("a.json", '{"segments": [{"start": 1}]}', 'not {"segments": [...]}'),
        ("a.json", '{"segments": 5}', 'not {"segments": [...]}'),
        ("a.json", "[" * 100_000, 'not {"segments": [...]}'),
        ("a.json", as_json((1, float("nan"), "ads")), "segment 1 has the time nan"),
        ("a.json", as_json((1, None, "ads")), "segment 1 has the time None"),
        ("a.json", as_json((1, True, "ads")), "segment 1 has the time True"),
        ("a.json", as_json((1, 10**400, "ads")), "segment 1 has the time 1000"),
        ("a.csv", b"\xff\xfe1\x00", "is not text in UTF-8"),
    ],
)
def test_mistake_is_refused_in_one_line_that_says_where(name, text, says):
    assert says in refusal(name, text)


def test_spans_are_in_order_whatever_the_order_of_the_file():
    rows = [(40, 50, "games"), (0, 10, "ads"), (20, 30, "games")]
    assert parse_labels("x/a.json", as_json(*rows).encode()) == tuple(
        Span(*row) for row in sorted(rows)
    )
