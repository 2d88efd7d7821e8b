"""Processes: what a worker has imported, and what stays of the main script."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import os
import colorsys  # stands for what a worker must not pay for
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from utils.processes import LightContext
import tests.test_processes as helpers

if __name__ == "__main__":
    with ProcessPoolExecutor(2, CONTEXT) as pool:
        print(pool.submit(helpers.imported, "colorsys").result())
    print(os.path.basename(__file__), __spec__)
"""


def imported(name: str) -> bool:
    """Whether this process has a module, called in a worker."""
    return name in sys.modules


@pytest.mark.parametrize(
    ("context", "expected"), [("LightContext()", "False"), ("get_context('spawn')", "True")]
)
def test_light_workers_do_not_import_the_main_script(tmp_path, context, expected):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("CONTEXT", context))
    done = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected, "script.py", "None"]
