"""A training that is killed at any moment loses nothing that it had saved."""

import json
import subprocess
import sys

import pytest

from tests.trainings import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kills"), [("late_fusion", 6), ("lrcn", 2), ("conv", 2)])
def test_training_killed_at_random_moments_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, case, kills
):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", tmp_path / "runs", str(kills), "0", case],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] == kills
