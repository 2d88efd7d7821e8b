"""Lock: Pipfile.lock fits Pipfile, pins every package by hash, and names no machine."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    "packages": "default",
    "dev-packages": "develop",
    "cluster": "cluster",
    "annoy": "annoy",
}
# pipenv hashes a Pipfile without a [[source]] as if it named this one.
PIPENV_SOURCE = {"name": "pypi", "url": "https://pypi.org/simple", "verify_ssl": True}
CURE = "run ./run_training.sh lock"


@pytest.fixture(scope="module")
def pipfile() -> dict:
    return tomllib.loads((ROOT / "Pipfile").read_text())


@pytest.fixture(scope="module")
def lock() -> dict:
    return json.loads((ROOT / "Pipfile.lock").read_text())


def entries(lock: dict) -> dict[str, dict]:
    return {name: entry for group in GROUPS.values() for name, entry in lock[group].items()}


def test_lock_was_made_from_this_pipfile(pipfile, lock):
    # As plette's Pipfile.get_hash, which pipenv calls: categories beyond the two keep their names.
    hashed = {GROUPS.get(section, section): content for section, content in pipfile.items()}
    hashed["_meta"] = {"sources": [PIPENV_SOURCE], "requires": {}}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    assert lock["_meta"]["hash"]["sha256"] == hashlib.sha256(text.encode()).hexdigest(), CURE


def test_lock_names_no_index_and_no_file():
    text = (ROOT / "Pipfile.lock").read_text()
    assert "://" not in text, CURE
    assert "file:" not in text, CURE
    assert json.loads(text)["_meta"]["sources"] == [], CURE


def test_pipfile_names_no_index_and_no_python(pipfile):
    assert "source" not in pipfile
    assert "requires" not in pipfile  # one lock serves Python 3.11 to 3.13


def test_every_package_is_pinned_to_a_public_version_by_hash(lock):
    for name, entry in entries(lock).items():
        # A local version, such as 2.14.1+cpu, is on no public index.
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", entry["version"]), f"{name} {entry['version']}"
        assert entry["hashes"], name
        assert not {"path", "file", "git"} & set(entry), name


@pytest.mark.parametrize("section", GROUPS)
def test_every_package_of_the_pipfile_is_locked(pipfile, lock, section):
    assert set(pipfile[section]) <= set(lock[GROUPS[section]]), CURE


def test_no_package_is_locked_for_one_python_only(lock):
    for name, entry in entries(lock).items():
        assert not re.search(r"python_version < '3\.1[0-3]'", entry.get("markers", "")), name
        assert not re.search(r"python_version >= '3\.1[2-9]'", entry.get("markers", "")), name
