"""Whatever is asked of the API, right or wrong by its own description, gets no 5xx."""

import functools
import json
import os
import random
import shutil
import time
from collections import Counter

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.pages import make_settings, open_page
from tests.timelines import labelled, timeline
from tests.trainings import write_clip
from web.jobs import Jobs

ENDLESS = "/api/jobs/events"  # a stream, for which the jobs' own tests are
EXAMPLES = {GenerationMode.POSITIVE: 58, GenerationMode.NEGATIVE: 50}  # of an operation
CASES = 2000
KNOWN = (200, 201, 202, 204, 206, 400, 404, 405, 408, 409, 413, 415, 416, 422, 429)


@pytest.fixture(scope="module")
def page(tmp_path_factory, trained_run):
    """Recordings, labelled and not, a broken one, a clip and a model; jobs end at once."""
    folder = tmp_path_factory.mktemp("fuzzed")
    recordings = folder / "data" / "recordings"
    write_clip(recordings / "game.mp4", "games", 1, 3.0)
    write_clip(recordings / "other.mp4", "ads", 2, 2.0)
    write_clip(folder / "data" / "ads" / "clip.mp4", "ads", 3, 2.0)
    (recordings / "broken.mp4").write_bytes(b"no video")
    shutil.copytree(trained_run, folder / "runs" / trained_run.name)
    (folder / "runs" / "latest").symlink_to(trained_run.name)
    register = Jobs.kind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "kind", lambda self, name, _, **how: register(self, name, idle, **how))
        with open_page(make_settings(folder), raise_server_exceptions=False) as client:
            services = client.app.state.services
            model = services.model.known()
            made = labelled(timeline("games 1", "ads? 1", "games 1"))
            ledger = model.ledger(services.settings.labelled_dir, quick=False)
            ledger.add((recordings / "game.mp4").resolve(), made)
            yield client


def idle(handle, arguments: dict) -> dict:
    """What every job does here: a fuzzer has trainings started by the hundred."""
    handle.report(0.5)
    return {}


@functools.cache
def schema_of(app):
    return schemathesis.openapi.from_dict(app.openapi())


def cases_of(page, path: str, method: str, mode: GenerationMode) -> st.SearchStrategy:
    return schema_of(page.app)[path][method].as_strategy(generation_mode=mode)


def operations(page) -> list[tuple[str, str, GenerationMode]]:
    """Each with both modes, where it takes anything that can be wrong."""
    found = []
    for path, methods in page.app.openapi()["paths"].items():
        for method, operation in methods.items():
            places = {parameter["in"] for parameter in operation.get("parameters", ())}
            if path == ENDLESS:
                continue
            found.append((path, method, GenerationMode.POSITIVE))
            if "query" in places or "application/json" in str(operation.get("requestBody")):
                found.append((path, method, GenerationMode.NEGATIVE))
    return found


@pytest.mark.slow
def test_whatever_is_asked_is_answered_without_a_server_error(page):
    services = page.app.state.services
    known = [recording.id for recording in services.library.all()]
    known += [path.name for path in services.settings.runs_dir.iterdir()]
    began, statuses, failures = time.monotonic(), Counter(), []
    for operation in operations(page):
        for case, response in answers(page, *operation, known):
            statuses[response.status_code] += 1
            if response.status_code not in KNOWN:
                failures.append((*operation, case.body, case.query, response.text))
            elif response.status_code >= 400:
                said = response.json()
                assert set(said) == {"error", "kind"}, said
                assert "\n" not in said["error"]
    seconds = time.monotonic() - began
    print(f"{sum(statuses.values())} cases in {seconds:.0f} s: {dict(sorted(statuses.items()))}")
    assert failures == []
    assert sum(statuses.values()) >= CASES
    assert {200, 202, 404, 422} <= set(statuses)  # right ones were among them, too
    assert page.get("/api/health").status_code == 200


def answers(page, path: str, method: str, mode: GenerationMode, known: list[str]) -> list[tuple]:
    """Cases of an operation with their answers; about half of them name what there is."""
    found = []

    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        database=None,
        deadline=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        cases_of(page, path, method, mode), st.one_of(st.none(), st.sampled_from(known))
    )
    def ask(case, name) -> None:
        if name is not None:
            case.path_parameters = dict.fromkeys(case.path_parameters or {}, name)
            if isinstance(case.body, dict):
                with_known(case.body, name)
        found.append((case, send(page, case)))

    ask()
    return found


def with_known(body: dict, known: str) -> None:
    """Lets a body name a recording that is there, wherever it names one."""
    for name, value in body.items():
        if name == "recording" and isinstance(value, str):
            body[name] = known
        elif name in ("recordings", "places") and isinstance(value, list):
            body[name] = [
                {**item, "recording": known} if isinstance(item, dict) else known for item in value
            ]


def send(page, case):
    """The answer to a case, sent as it is: a body that is no JSON, too."""
    values = case.as_transport_kwargs(base_url=str(page.base_url))
    names = ("method", "url", "params", "headers", "json", "content")
    if "data" in values:
        values["content"] = values.pop("data")
    return page.request(**{name: values[name] for name in names if values.get(name) is not None})


def test_random_bodies_and_queries_are_no_server_errors(page):
    """Bytes that no description would come up with, at every path and with every method."""
    choose = random.Random(7)
    paths = [path for path in page.app.openapi()["paths"] if path != ENDLESS]
    bodies = [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"segments": NaN}',
        b"1e999",
    ]
    bodies += [json.dumps({"segments": [{"start_seconds": 10**400}]}).encode(), os.urandom(2000)]
    for path in paths:
        for _ in range(12):
            named = path.replace("{id}", choose.choice(["x", "%00", "é", "0" * 400]))
            named = named.replace("{name}", "a").replace("{job_id}", "b")
            query = choose.choice(
                ["", "?name=%00.mp4", "?start=nan&end=inf", "?seconds=1e309", "?a=%ff"]
            )
            found = page.request(
                choose.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
                named + query,
                content=choose.choice(bodies),
                headers={"Content-Type": choose.choice(["application/json", "text/plain", "x"])},
            )
            assert found.status_code < 500, (path, found.text)
