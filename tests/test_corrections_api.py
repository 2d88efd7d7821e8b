"""Corrections over HTTP are saved, refused and taken back, with one line that says why."""

import json

import pytest

from tests.media import write_video
from tests.pages import make_settings, open_page

ROWS = [
    {"start_seconds": 0, "end_seconds": 1, "label": "games"},
    {"start_seconds": 1, "end_seconds": 2, "label": "ads"},
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    settings = make_settings(folder)
    for name in ("recordings/game.mp4", "ads/spot.mp4"):
        path = settings.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, seconds=2.0)
    with open_page(settings) as client:
        yield client


@pytest.fixture
def path(client):
    """Of a recording without corrections."""
    settings = client.app.state.services.settings
    (settings.data_dir / "recordings" / "game.json").unlink(missing_ok=True)
    return path_of(client, "game.mp4")


def path_of(client, name):
    recordings = client.get("/api/recordings").json()["recordings"]
    return next(f"/api/recordings/{r['id']}" for r in recordings if r["name"].endswith(name))


def put(client, path, segments, **more):
    return client.put(f"{path}/corrections", json={"segments": segments, **more})


def refusal(answer, status):
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]
    return answer.json()["kind"]


def test_corrections_are_saved_shown_and_taken_back(client, path):
    saved = put(client, path, ROWS).json()
    assert saved["place"] == "beside"
    assert saved["corrections"]["segments"] == ROWS
    assert client.get(path).json()["corrections"] == saved["corrections"]
    assert client.get(path).json()["state"] == "corrected"
    how = {"revision": saved["revision"]}
    assert client.delete(f"{path}/corrections", params=how).json() == {"corrections": None}
    assert client.get(path).json()["corrections"] is None


def test_what_was_not_seen_is_not_written_over(client, path):
    first = put(client, path, ROWS).json()["revision"]
    put(client, path, ROWS[:1], revision=first)
    assert refusal(put(client, path, ROWS, revision=first), 409) == "changed_elsewhere"
    gone = client.delete(f"{path}/corrections", params={"revision": first})
    assert refusal(gone, 409) == "changed_elsewhere"


def test_file_of_somebody_else_needs_a_word(client, path):
    beside = client.app.state.services.settings.data_dir / "recordings" / "game.json"
    beside.write_text("theirs")
    assert refusal(put(client, path, ROWS), 409) == "unknown_file"
    assert put(client, path, ROWS, overwrite=True).status_code == 200


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"segments": [{**ROWS[0], "label": "advert"}]}, "bad_segments"),
        ({"segments": ROWS[::-1]}, "bad_segments"),
        ({"segments": []}, "bad_segments"),
        ({"segments": [{**ROWS[0], "end_seconds": 1e300}]}, "bad_segments"),
        ({"segments": [{**ROWS[0], "start_seconds": -1}]}, "bad_request"),
        ({"segments": [{"start_seconds": 0, "end_seconds": 1}]}, "bad_request"),
        ({"segments": [{**ROWS[0], "label": "\ud800"}]}, "bad_request"),
        ({"revision": None}, "bad_request"),
        ([], "bad_request"),
    ],
)
def test_bad_segments_are_refused_in_a_line(client, path, body, kind):
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = client.put(f"{path}/corrections", content=content, headers=headers)
    assert refusal(answer, 422) == kind
    assert client.get(path).json()["corrections"] is None


def test_training_clip_and_unknown_recording_are_refused(client):
    assert refusal(put(client, path_of(client, "spot.mp4"), ROWS), 409) == "training_clip"
    assert refusal(put(client, "/api/recordings/0123456789abcdef", ROWS), 404) == "not_found"


def test_queue_is_empty_without_a_model(client):
    assert client.get("/api/queue").json() == {"items": [], "total_expected_wrong_seconds": 0}
    assert refusal(client.get("/api/queue?limit=0"), 422) == "bad_request"
