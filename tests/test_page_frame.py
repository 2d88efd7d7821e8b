"""The frame and the lists of the page: what people see of every answer of the server."""

import re

import pytest

from tests.page_stub import HEALTH, Stub, make_job, make_recording, open_stub
from tests.steady import wait_until

pytestmark = pytest.mark.browser
ROW = "[data-test=recording-row]"
FOUND = {
    "same": [
        {
            "recording": f"{number:016x}",
            "name": f"recordings/match {number:04d}.mp4",
            "start_seconds": 10.0 * number,
            "end_seconds": 10.0 * number + 15,
            "label": "games",
            "likeness": 0.98,
            "by": "sound",
        }
        for number in (2, 3)
    ],
    "similar": [],
}


@pytest.fixture
def stub() -> Stub:
    return Stub()


def test_thousand_recordings_are_one_request_and_few_pictures(chromium, stub):
    stub.show_recordings([make_recording(number) for number in range(1000)])
    with open_stub(chromium, stub) as page:
        page.locator(ROW).first.wait_for()
        page.wait_for_function(f"() => document.querySelectorAll('{ROW}').length === 1000")
        wait_until(lambda: pictures_asked(stub) or page.wait_for_timeout(50))
        page.wait_for_timeout(300)  # for those that are not to be asked for
    assert [path for _, path, _ in stub.asked].count("/api/recordings") == 1
    assert pictures_asked(stub) < 40


def pictures_asked(stub: Stub) -> int:
    return sum(path.endswith("/thumbnail") for _, path, _ in stub.asked)


def test_names_are_text_whatever_they_hold(chromium, stub):
    name = '<img src=x onerror="document.title=1"> & "so".mp4'
    stub.show_recordings([make_recording(1, name=name)])
    with open_stub(chromium, stub) as page:
        page.locator(ROW).wait_for()
        assert page.locator(f"{ROW} .title").inner_text() == name
        assert page.locator(f"{ROW} img[src=x]").count() == 0


def test_filter_narrows_the_list_and_survives_a_reload(chromium, stub):
    stub.show_recordings(
        [make_recording(1), make_recording(2, state="corrected", ads_share=0.2, breaks=3)]
    )
    with open_stub(chromium, stub) as page:
        page.get_by_label("State").select_option("corrected")
        page.reload()
        page.locator(ROW).first.wait_for()
        assert page.locator(ROW).count() == 1
        assert "20 % ads · 3 breaks" in page.locator(ROW).inner_text()
        page.get_by_label("Filter by name").fill("nothing like it")
        page.get_by_text("Nothing matches").wait_for()
        page.get_by_role("button", name="Show all").click()
        assert page.locator(ROW).count() == 2


def test_columns_sort_both_ways(chromium, stub):
    stub.show_recordings([make_recording(n, duration_seconds=float(n)) for n in (2, 3, 1)])

    def lengths() -> list[str]:
        return page.locator(f"{ROW} .length").all_inner_texts()

    with open_stub(chromium, stub) as page:
        page.get_by_role("button", name="Length").click()
        assert lengths() == ["0:03", "0:02", "0:01"]
        page.get_by_role("button", name="Length").click()
        assert lengths() == ["0:01", "0:02", "0:03"]
        assert page.get_by_role("columnheader", name="Length").get_attribute("aria-sort") == (
            "ascending"
        )


def test_nothing_there_says_what_to_do(chromium, stub):
    stub.say("GET", "/api/health", {**HEALTH, "model": None, "notes": ["a link leads out"]})
    with open_stub(chromium, stub) as page:
        page.get_by_text("No recordings yet").wait_for()
        page.get_by_text("There is no trained model yet").wait_for()
        page.get_by_text("a link leads out").wait_for()


def test_length_that_is_found_out_later_is_shown_then(chromium, stub):
    stub.show_recordings([make_recording(1, duration_seconds=None)])
    with open_stub(chromium, stub) as page:
        page.locator(ROW).wait_for()
        stub.show_recordings([make_recording(1, duration_seconds=61.0)])
        page.locator(f"{ROW} .length").get_by_text("1:01").wait_for()


def test_row_follows_its_job_to_the_end(chromium, stub):
    stub.show_recordings([make_recording(1)])
    stub.jobs = [make_job("running", progress=0.4)]
    with open_stub(chromium, stub) as page:
        page.locator(f"{ROW} progress").wait_for()
        assert page.locator(f"{ROW} progress").evaluate("e => e.value") == pytest.approx(0.4)
        page.locator("#job-now").get_by_text("40 %").wait_for()
        labelled = make_recording(1, state="labelled", ads_share=0.25, breaks=2, unsure=1)
        stub.show_recordings([labelled])
        stub.jobs = [make_job("done", progress=1.0)]
        page.locator(ROW).get_by_text("25 % ads · 2 breaks").wait_for()
        page.locator("#toasts").get_by_role("link", name="Review").wait_for()
        page.locator("#job-now").wait_for(state="hidden")


def test_refusal_is_shown_in_the_words_of_the_server(chromium, stub):
    stub.show_recordings([make_recording(1)])
    stub.say("POST", f"/api/recordings/{1:016x}/label", {"error": "train first", "kind": "x"}, 409)
    with open_stub(chromium, stub) as page:
        page.locator("[data-test=label-button]").click()
        page.get_by_role("alert").get_by_text("train first").wait_for()
        assert page.locator("[data-test=label-button]").is_enabled()


def test_lost_server_is_said_and_found_again(chromium, stub):
    with open_stub(chromium, stub) as page:
        page.get_by_text("No recordings yet").wait_for()
        stub.is_down = True
        page.get_by_role("button", name="Look again").click()
        page.locator("#connection").get_by_text("does not answer").wait_for()
        stub.show_recordings([make_recording(1)])
        stub.is_down = False
        page.locator(ROW).wait_for()
        assert page.locator("#connection").is_hidden()
        stub.is_down = True  # and once more, with a list that is shown
        page.locator("[data-test=label-button]").click()
        page.locator("#connection").wait_for()
        stub.show_recordings([make_recording(1), make_recording(2)])
        stub.is_down = False
        page.locator(ROW).nth(1).wait_for()


def test_page_without_its_token_says_how_to_get_in(chromium, stub):
    for path in ("/api/recordings", "/api/health"):
        stub.say("GET", path, {"error": "no token", "kind": "token"}, 401)
    with open_stub(chromium, stub) as page:
        page.locator("#connection").get_by_text("?token=").wait_for()


def test_videos_are_added_and_refused_one_by_one(chromium, stub):
    stub.say("POST", "/api/uploads", make_recording(7, name="good.mp4", folder="uploads"), 201)
    with open_stub(chromium, stub) as page:
        add = page.locator("[data-test=add-videos]")
        choose(page, add, "good.mp4")
        page.locator(ROW).get_by_text("good.mp4").wait_for()
        refusal = {"error": "bad.mp4 holds no video", "kind": "no_video"}
        stub.say("POST", "/api/uploads", refusal, 415)
        choose(page, add, "bad.mp4")
        page.get_by_role("list", name="Uploads").get_by_text("bad.mp4 holds no video").wait_for()
        assert page.locator(ROW).count() == 1


def choose(page, control, name: str) -> None:
    with page.expect_file_chooser() as chooser:
        control.click()
    chooser.value.set_files({"name": name, "mimeType": "video/mp4", "buffer": b"0" * 1000})


def test_file_is_classified_and_not_kept(chromium, stub):
    shares = {"games": 0.08, "ads": 0.92}
    answer = {"label": "ads", "confidence": 0.92, "probabilities": shares, "timeline": None}
    stub.say("POST", "/api/classify", answer)
    with open_stub(chromium, stub) as page:
        choose(page, page.get_by_role("button", name="Classify a file"), "clip.mp4")
        dialog = page.get_by_role("dialog", name="What is it?")
        dialog.get_by_text("Nothing of it was kept").wait_for()
        assert dialog.locator("dt").all_inner_texts() == ["ads", "games"]
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")


def test_queue_tells_what_was_looked_at_since_it_was_opened(chromium, stub):
    item = {
        "recording": f"{1:016x}",
        "name": "recordings/a.mp4",
        "start_seconds": 60.0,
        "end_seconds": 90.0,
        "label": "ads",
        "confidence": 0.6,
        "expected_wrong_seconds": 12.0,
    }
    stub.say("GET", "/api/queue", {"items": [item], "total_expected_wrong_seconds": 2400.0})
    with open_stub(chromium, stub, "queue") as page:
        page.get_by_text("0 of 40 min").wait_for()
        link = page.locator("[data-test=queue-item] a")
        assert link.get_attribute("href") == f"#/review/{1:016x}?t=60.00"
        stub.say("GET", "/api/queue", {"items": [item], "total_expected_wrong_seconds": 1680.0})
        page.reload()
        page.get_by_text("12 of 40 min").wait_for()


def test_all_airings_get_one_label_and_what_was_refused_is_told(chromium, stub):
    stub.show_recordings([make_recording(number) for number in (1, 2, 3)])
    state = {"model": "m", "recordings": 3, "clips": 900, "stale": False, "to_index": 0}
    stub.say("GET", "/api/search", state)
    stub.say("POST", "/api/search", FOUND)
    done = {
        "changed": [{"recording": f"{1:016x}", "revision": "r", "seconds": 15.0}],
        "refused": [{"recording": f"{3:016x}", "reason": "it is read-only"}],
    }
    stub.say("POST", "/api/search/label", done)
    with open_stub(chromium, stub, f"search?recording={1:016x}&start=20&end=35") as page:
        page.get_by_label("Choose match 0002.mp4").uncheck()
        page.locator("[data-test=label-airings]").click()
        page.locator("[data-test=confirm]").click()
        page.get_by_text("match 0003.mp4 was left as it is: it is read-only").wait_for()
    (sent,) = stub.bodies("POST", "/api/search/label")
    assert sent["label"] == "ads"
    places = [(int(p["recording"], 16), p["start_seconds"]) for p in sent["places"]]
    assert places == [(1, 20.0), (3, 30.0)]  # what was marked is one of the airings


def test_range_that_is_none_is_not_searched_for(chromium, stub):
    stub.show_recordings([make_recording(1)])
    state = {"model": "m", "recordings": 1, "clips": 300, "stale": False, "to_index": 0}
    stub.say("GET", "/api/search", state)
    with open_stub(chromium, stub, f"search?recording={1:016x}") as page:
        page.get_by_label("To", exact=True).fill("soon")
        page.locator("[data-test=find]").click()
        page.get_by_text("A time is written 12:03").wait_for()
        page.get_by_label("To", exact=True).fill("0:00")
        page.locator("[data-test=find]").click()
        page.get_by_text("ends before it begins").wait_for()
    assert stub.bodies("POST", "/api/search") == []


def make_run(name: str, **changes: object) -> dict:
    return {
        "name": name,
        "script": "train.py",
        "state": "finished",
        "reason": "",
        "epoch": 8,
        "epochs": 8,
        "phase": "heads",
        "best": "",
        "started_at": "2026-11-22T09:00:00+00:00",
        "eta_seconds": None,
        "has_report": True,
        "can_promote": True,
        "version": None,
        "in_use": False,
        **changes,
    }


def show_runs(stub: Stub) -> None:
    runs = [
        make_run("new", metrics={"auc": 0.97, "nll": 0.3}),
        make_run("old", metrics={"auc": 0.95, "nll": 0.2}, version="0001-a", in_use=True),
    ]
    history = [{"version": "0001-a", "after": None, "since": "2026-11-22", "why": "first"}]
    stub.say(
        "GET",
        "/api/runs",
        {"runs": runs, "versions": [], "champion": "0001-a", "history": history},
    )
    data = {"classes": {"ads": {"recordings": 2, "groups": 1}}, "demo": False}
    retrain = {"corrected_recordings": ["a"], "data": data, "can": True, "why": None, "last": None}
    stub.say("GET", "/api/retrain", retrain)


def test_best_run_of_each_metric_is_marked_and_others_can_be_promoted(chromium, stub):
    show_runs(stub)
    stub.say("POST", "/api/runs/new/promote", {"champion": "0002-b", "note": None})
    with open_stub(chromium, stub, "runs") as page:
        rows = page.locator("[data-test=run-row]")
        rows.first.wait_for()
        assert rows.nth(0).locator(".best").all_inner_texts() == ["★0.970"]
        assert rows.nth(1).locator(".best").all_inner_texts() == ["★0.200"]  # lower is better
        assert rows.nth(1).locator("[data-test=promote]").count() == 0  # the champion
        assert page.locator("[data-test=rollback]").count() == 0  # there was none before
        rows.nth(0).locator("[data-test=promote]").click()
        page.get_by_label("Why (optional)").fill("evening matches")
        page.locator("[data-test=confirm]").click()
        page.get_by_text("new is the champion now").wait_for()
    assert stub.bodies("POST", "/api/runs/new/promote") == [{"reason": "evening matches"}]


def test_retraining_is_asked_for_with_its_constants_and_can_be_cancelled(chromium, stub):
    show_runs(stub)
    job = make_job("running", kind="retrain", title="Retrain with corrections", recording=None)
    stub.say("POST", "/api/retrain", job, 202)
    stub.say("DELETE", "/api/jobs/j1", {**job, "state": "cancelled"})
    with open_stub(chromium, stub, "runs") as page:
        page.get_by_text("1 corrected recording").wait_for()
        page.get_by_text("Change constants").click()
        page.get_by_label("Constants").fill("EPOCHS = 4\nFRAME_SIZE = [96, 96]\nWEIGHTS = none")
        page.locator("[data-test=retrain]").click()
        page.locator("[data-test=confirm]").click()
        page.locator(".retrain-now progress").wait_for()
        assert page.locator("[data-test=retrain]").is_disabled()
        page.locator(".retrain-now").get_by_role("button", name="Cancel").click()
        page.locator(".retrain-now").wait_for(state="detached")
        assert page.locator("[data-test=retrain]").is_enabled()
    constants = {"EPOCHS": 4, "FRAME_SIZE": [96, 96], "WEIGHTS": "none"}
    assert stub.bodies("POST", "/api/retrain") == [{"constants": constants}]


def test_question_is_answered_no_by_escape(chromium, stub):
    show_runs(stub)
    with open_stub(chromium, stub, "runs") as page:
        page.locator("[data-test=retrain]:enabled").click()
        page.locator("dialog").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")
    assert stub.bodies("POST", "/api/retrain") == []


def test_address_of_nothing_leads_home(chromium, stub):
    with open_stub(chromium, stub, "nowhere/%E0%A4%A") as page:
        page.get_by_role("link", name="All recordings").click()
        page.get_by_text("No recordings yet").wait_for()
        assert re.match("Recordings", page.title())


def test_times_are_written_and_read_as_players_do(chromium, stub):
    with open_stub(chromium, stub) as page:
        said = page.evaluate(
            """async () => {
              const { clock, parseClock, span } = await import("/static/ui.js");
              return [clock(59.999), clock(3723.456, 2), clock(-1.5, 1), parseClock("1:02:03.5"),
                parseClock("90,5"), parseClock("1:2:3:4"), parseClock(""), span(35), span(7500)];
            }"""
        )
    assert said == [
        *("0:59", "1:02:03.45", "-0:01.5", 3723.5, 90.5, None, None, "35 s", "2 h 05 min")
    ]
