"""The story of the review page in a real browser: look, correct, search, retrain, go on."""

import re
import signal
from collections.abc import Iterator

import pytest

from tests.archives import FIRST, FRAME_RATE, SECOND, SPOT, THIRD, Archive, Made
from tests.browser import OFFLINE, Server, open_page
from tests.reviewer import Reviewer
from tests.steady import wait_until
from utils.labels import Span, parse_labels

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FRAME_SECONDS = 1 / FRAME_RATE
HAND_SECONDS = 0.2  # what a pixel of the strip is worth, twice
MODEL_SECONDS = 2.5  # by which a model's edge may be off
FIVE_EDGES_SECONDS = 60.0
WATCH_FOR_PROGRESS = """
() => new MutationObserver(() => {
  if (document.querySelector("progress")) document.body.dataset.hadProgress = "yes";
}).observe(document.body, {childList: true, subtree: true})
"""


@pytest.fixture
def archive(made_archive, tmp_path) -> Archive:
    """One of the test's own, where it may train and label."""
    return made_archive.copy(tmp_path / "archive")


@pytest.fixture
def server(archive) -> Iterator[Server]:
    with Server(archive.serve_options(), archive.folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def shared_archive(made_archive, tmp_path_factory) -> Archive:
    return made_archive.copy(tmp_path_factory.mktemp("shared") / "archive")


@pytest.fixture(scope="module")
def labelled_server(shared_archive) -> Iterator[Server]:
    """With the timelines of all recordings, and an index of them."""
    with Server(shared_archive.serve_options(), shared_archive.folder / "log") as server:
        status, answer = server.ask("POST", "/api/label", {"recordings": "all_unlabelled"})
        assert status == 202, answer
        for job in answer["jobs"]:
            server.wait_for_job(job["id"])
        server.job("POST", "/api/search/index")
        yield server


@pytest.fixture
def labelled(labelled_server, shared_archive) -> Iterator[Server]:
    """The same, in which nobody has corrected anything."""
    yield labelled_server
    for sidecar in shared_archive.recordings.glob("*.json"):
        sidecar.unlink()


# What the server knows


def id_of(server: Server, made: Made) -> str:
    recordings = server.get("/api/recordings")["recordings"]
    return next(r["id"] for r in recordings if r["name"].endswith(made.name))


def model_spans(server: Server, made: Made) -> list[Span]:
    detail = server.get(f"/api/recordings/{id_of(server, made)}")
    return [_span(row) for row in detail["timeline"]["segments"]]


def saved_spans(server: Server, made: Made) -> list[Span]:
    saved = server.get(f"/api/recordings/{id_of(server, made)}")["corrections"]
    return [_span(row) for row in saved["segments"]] if saved else []


def _span(row: dict) -> Span:
    return Span(row["start_seconds"], row["end_seconds"], row["label"])


def save(server: Server, made: Made, spans: list[Span], revision: str | None = None) -> str:
    """Saves as another program would; returns the revision."""
    body = {"segments": [span.__dict__ for span in spans], "revision": revision}
    status, answer = server.ask("PUT", f"/api/recordings/{id_of(server, made)}/corrections", body)
    assert status == 200, answer
    return answer["revision"]


def are_close(found: list[Span], wanted: list[Span], seconds: float) -> bool:
    return [s.label for s in found] == [s.label for s in wanted] and all(
        abs(one.start_seconds - other.start_seconds) <= seconds
        and abs(one.end_seconds - other.end_seconds) <= seconds
        for one, other in zip(found, wanted, strict=True)
    )


def wait_until_saved(server: Server, made: Made, wanted: list[Span], seconds: float) -> None:
    """Until what is on the disk is that, give or take so many seconds."""
    wait_until(
        lambda: are_close(saved_spans(server, made), wanted, seconds),
        what=lambda: f"{wanted} to be saved, and not {saved_spans(server, made)}",
    )


def with_edge(spans: list[Span], number: int, seconds: float) -> list[Span]:
    """The same with its edge `number`, 0 for the first, elsewhere."""
    moved = list(spans)
    before, after = moved[number], moved[number + 1]
    moved[number] = Span(before.start_seconds, seconds, before.label)
    moved[number + 1] = Span(seconds, after.end_seconds, after.label)
    return moved


def open_review(chromium, server: Server, made: Made, **options):
    return open_page(chromium, server, f"/#/review/{id_of(server, made)}", **options)


def reviewer_of(page, made: Made) -> Reviewer:
    page.locator("[data-test=edge]").first.wait_for()
    return Reviewer(page, made.ends[-1], FRAME_SECONDS)


# The story


def test_recording_is_labelled_corrected_and_learned_from(chromium, server, archive):
    with open_page(chromium, server) as page:
        label_from_the_list(page, server)
        found = model_spans(server, FIRST)
        # The talk is taken for ads: that is what there is to correct.
        assert [span.label for span in found] == ["games", "ads", "games", "ads", "games"]
        page.locator("[data-test=recording-row]", has_text=FIRST.name).get_by_role(
            "link"
        ).first.click()
        hands = reviewer_of(page, FIRST)
        edit_and_take_back(page, hands, server, found)
        correct_all(page, hands, server, archive)
        page.goto(f"{server.url}/#/runs")
        second_before = label(server, SECOND)  # a talk and a spot, and both are ads
        assert [s.label for s in second_before] == ["games", "ads", "games", "ads", "games"]
        retrain_from_the_page(page, server)
        second_after = label(server, SECOND)
    assert are_close(second_after, SECOND.truth, MODEL_SECONDS), second_after


def label_from_the_list(page, server: Server) -> None:
    row = page.locator("[data-test=recording-row]", has_text=FIRST.name)
    row.get_by_text("not labelled").wait_for()
    page.evaluate(WATCH_FOR_PROGRESS)  # which may be over before anybody looks
    row.locator("[data-test=label-button]").click()
    row.get_by_text(re.compile(r"^labelled", re.IGNORECASE)).first.wait_for()
    page.locator("body[data-had-progress=yes]").wait_for()


def edit_and_take_back(page, hands: Reviewer, server: Server, found: list[Span]) -> None:
    """Drags an edge, finds it again in a page loaded anew, takes it back, and moves it by a key."""
    first = found[0].end_seconds
    hands.drag(first, first - 4.0)
    dragged = with_edge(found, 0, first - 4.0)
    wait_until_saved(server, FIRST, dragged, HAND_SECONDS)
    page.reload()
    page.locator("[data-test=edge]").first.wait_for()
    assert hands.edges()[0] == pytest.approx(first - 4.0, abs=HAND_SECONDS)
    page.locator("[data-test=undo]").click()
    wait_until(lambda: not saved_spans(server, FIRST), what=lambda: "the model's own again")
    assert hands.edges()[0] == pytest.approx(first, abs=0.01)
    page.locator("[data-test=redo]").click()
    wait_until_saved(server, FIRST, dragged, HAND_SECONDS)
    moved = saved_spans(server, FIRST)[0].end_seconds
    hands.press("Home", "]", "Period")
    wait_until_saved(server, FIRST, with_edge(dragged, 0, moved + FRAME_SECONDS), 0.01)


def correct_all(page, hands: Reviewer, server: Server, archive: Archive) -> None:
    """Splits and merges, calls the talk a game, and puts the edges where they belong."""
    before = saved_spans(server, FIRST)
    hands.seek(85.0)
    hands.press("s")
    wait_until(lambda: len(saved_spans(server, FIRST)) == 6)
    hands.seek(80.0)
    hands.press("m")
    wait_until_saved(server, FIRST, before, 0.01)
    hands.seek(65.0)
    hands.press("2")  # the second class in alphabetical order
    wait_until(lambda: len(saved_spans(server, FIRST)) == 3)
    assert hands.labels() == ["games", "ads", "games"]
    hands.correct_edges([span.end_seconds for span in FIRST.truth[:-1]])
    wait_until_saved(server, FIRST, FIRST.truth, FRAME_SECONDS)
    hands.wait_until_saved()
    sidecar = (archive.recordings / FIRST.name).with_suffix(".json")
    spans = list(parse_labels(sidecar.name, sidecar.read_bytes()))
    assert are_close(spans, FIRST.truth, FRAME_SECONDS), spans


def label(server: Server, made: Made) -> list[Span]:
    server.job("POST", f"/api/recordings/{id_of(server, made)}/label", {})
    return model_spans(server, made)


def retrain_from_the_page(page, server: Server) -> None:
    """Until the new run is the one in use."""
    before = {run["name"] for run in server.get("/api/runs")["runs"]}
    assert len(before) == 1
    page.locator("[data-test=retrain]").click()
    page.locator("[data-test=confirm]").click()
    wait_until(lambda: server.get("/api/retrain")["last"], what=lambda: "a training")
    job = server.wait_for_job(server.get("/api/retrain")["last"]["id"], 240.0)
    assert job["result"]["run"] not in before
    row = page.locator("[data-test=run-row]", has_text=job["result"]["run"])
    row.wait_for()
    assert server.get("/api/health")["model"]["run"] == job["result"]["run"]


def test_five_edges_are_corrected_by_keyboard_in_a_minute(chromium, labelled):
    off = (1.3, -0.6, 2.125, -1.75, 0.4)
    draft = THIRD.truth
    for number, seconds in enumerate(off):
        draft = with_edge(draft, number, draft[number].end_seconds + seconds)
    save(labelled, THIRD, draft)
    with open_review(chromium, labelled, THIRD) as page:
        hands = reviewer_of(page, THIRD)
        began = page.evaluate("() => performance.now()")
        hands.correct_edges([span.end_seconds for span in THIRD.truth[:-1]])
        wait_until_saved(labelled, THIRD, THIRD.truth, FRAME_SECONDS / 2 + 0.001)
        took = (page.evaluate("() => performance.now()") - began) / 1000
    assert took < FIVE_EDGES_SECONDS


def test_queue_begins_with_what_costs_most_and_leads_there(chromium, labelled):
    with open_page(chromium, labelled, "/#/queue") as page:
        items = page.locator("[data-test=queue-item]")
        items.first.wait_for()
        known = labelled.get("/api/queue?limit=50")["items"]
        wrong = [item["expected_wrong_seconds"] for item in known]
        assert wrong == sorted(wrong, reverse=True)
        assert known[0]["name"].rpartition("/")[2] in items.first.inner_text()
        items.first.get_by_role("link").first.click()
        page.locator("[data-test=strip]").wait_for()
        assert known[0]["recording"] in page.url


def test_corrected_recording_leaves_the_queue(chromium, labelled):
    name = id_of(labelled, FIRST)
    assert name in {item["recording"] for item in labelled.get("/api/queue")["items"]}
    save(labelled, FIRST, FIRST.truth)
    assert name not in {item["recording"] for item in labelled.get("/api/queue")["items"]}


def test_all_airings_of_a_spot_are_found_and_labelled(chromium, labelled):
    """The spot runs at 20 s of the first and at 70 s of the second recording."""
    save(labelled, SECOND, [Span(0.0, SECOND.ends[-1], "games")])  # somebody forgot the spot
    start, end = 20.0, 20.0 + SPOT[2]
    path = f"/#/search?recording={id_of(labelled, FIRST)}&start={start}&end={end}"
    with open_page(chromium, labelled, path) as page:
        found = page.locator("[data-test=search-result]")
        found.first.wait_for()
        assert found.filter(has_text=SECOND.name).count()
        page.locator("[data-test=label-airings]").click()
        confirm = page.locator("[data-test=confirm]")
        confirm.wait_for()
        confirm.click()
        wanted = [Span(0.0, 70.0, "games"), Span(70.0, 85.0, "ads"), Span(85.0, 105.0, "games")]
        wait_until_saved(labelled, SECOND, wanted, 1.5)


def test_version_is_promoted_and_rolled_back_on_the_page(chromium, server, archive):
    first = (archive.runs / "latest").resolve().name
    second = archive.train().name
    with open_page(chromium, server, "/#/runs") as page:
        for name in (first, second):
            row = page.locator("[data-test=run-row]", has_text=name)
            row.locator("[data-test=promote]").click()
            page.locator("[data-test=confirm]").click()
            wait_until(lambda name=name: run_in_use(server) == name)
        page.locator("[data-test=rollback]").click()
        page.locator("[data-test=confirm]").click()
        wait_until(lambda: run_in_use(server) == first)
    assert (archive.runs / "champion").resolve().name == server.get("/api/runs")["champion"]


def run_in_use(server: Server) -> str | None:
    runs = server.get("/api/runs")["runs"]
    return next((run["name"] for run in runs if run["in_use"]), None)


def test_second_tab_is_asked_before_anything_is_lost(chromium, labelled):
    with (
        open_review(chromium, labelled, FIRST, expected=[409]) as one,
        open_review(chromium, labelled, FIRST, expected=[409]) as other,
    ):
        hands, others = reviewer_of(one, FIRST), reviewer_of(other, FIRST)
        found = model_spans(labelled, FIRST)
        hands.press("]", "Alt+Period")
        of_one = with_edge(found, 0, found[0].end_seconds + 1.0)
        wait_until_saved(labelled, FIRST, of_one, 0.01)
        others.press("]", "]", "Alt+Comma")
        confirm = other.locator("[data-test=confirm]")
        confirm.wait_for()
        assert saved_spans(labelled, FIRST)[0].end_seconds == pytest.approx(
            of_one[0].end_seconds, abs=0.01
        )  # as long as nobody has answered
        confirm.click()
        of_other = with_edge(found, 1, found[1].end_seconds - 1.0)
        wait_until_saved(labelled, FIRST, of_other, 0.01)


def test_what_another_saved_can_be_taken_and_ones_own_brought_back(chromium, labelled):
    with open_review(chromium, labelled, FIRST, expected=[409]) as page:
        hands = reviewer_of(page, FIRST)
        theirs = with_edge(model_spans(labelled, FIRST), 0, 12.5)
        own = hands.edges()[0] + 1.0
        save(labelled, FIRST, theirs)
        hands.press("]", "Alt+Period")
        page.get_by_role("button", name="Load the others").click()
        wait_until(lambda: abs(hands.edges()[0] - 12.5) < 0.01, what=lambda: "their edge")
        assert saved_spans(labelled, FIRST)[0].end_seconds == 12.5
        page.locator("[data-test=undo]").click()
        wait_until(lambda: abs(hands.edges()[0] - own) < 0.02, what=lambda: "one's own edge")
        hands.wait_until_saved()  # not while the next test begins


def test_label_file_of_somebody_else_is_not_overwritten_unasked(chromium, labelled, shared_archive):
    sidecar = (shared_archive.recordings / FIRST.name).with_suffix(".json")
    theirs = b'[{"start": 1, "end": 2, "label": "ads"}]'
    sidecar.write_bytes(theirs)
    with open_review(chromium, labelled, FIRST, expected=[409]) as page:
        hands = reviewer_of(page, FIRST)
        hands.press("]", "Alt+Period")
        page.locator("[data-test=confirm]").wait_for()
        assert sidecar.read_bytes() == theirs
        page.locator("[data-test=confirm]").click()
        wait_until(lambda: sidecar.read_bytes() != theirs)
        assert len(parse_labels(sidecar.name, sidecar.read_bytes())) > 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_page_and_jobs_go_on_when_the_server_comes_back(chromium, server, archive, how):
    slow = archive.recordings / "long.mp4"
    slow.write_bytes((archive.recordings / SECOND.name).read_bytes())
    with open_page(chromium, server, "/#/jobs", expected=[OFFLINE]) as page:
        page.wait_for_load_state("load")
        status, answer = server.ask("POST", "/api/label", {"recordings": "all_unlabelled"})
        assert status == 202, answer
        # What the page still asks for as the server goes would be complained of.
        page.locator("[data-test=job]").nth(len(answer["jobs"]) - 1).wait_for()
        assert server.stop(how) < 10.0
        page.locator("#connection").wait_for()
        server.start()
        page.locator("#connection").wait_for(state="hidden")
        for job in answer["jobs"]:
            server.wait_for_job(job["id"])
        for job in answer["jobs"]:
            page.locator("[data-test=job]", has_text=job["title"]).get_by_text(
                "done"
            ).first.wait_for()


def test_edit_made_while_the_server_is_away_is_saved_when_it_is_back(chromium, labelled):
    with open_review(chromium, labelled, FIRST, expected=[OFFLINE]) as page:
        hands = reviewer_of(page, FIRST)
        found = model_spans(labelled, FIRST)
        labelled.stop()
        hands.press("]", "Alt+Period")
        page.locator("[data-test=save-state]", has_text=re.compile("not saved")).wait_for()
        labelled.start()
        wait_until_saved(labelled, FIRST, with_edge(found, 0, found[0].end_seconds + 1.0), 0.01)


def test_download_is_what_label_recording_writes(labelled):
    name = id_of(labelled, FIRST)
    save(labelled, FIRST, FIRST.truth)
    status, edl = labelled.ask("GET", f"/api/recordings/{name}/download?format=edl&of=corrected")
    assert status == 200
    start, end, _ = edl.decode().split()
    assert (float(start), float(end)) == (20.0, 35.0)
