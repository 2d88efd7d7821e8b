"""As many threads as torch takes."""

import subprocess
import sys

import pytest

from utils.threads import num_threads


@pytest.mark.parametrize("given", ["1", "3"])
def test_variable_decides(monkeypatch, given):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert num_threads() == int(given)


@pytest.mark.parametrize("given", ["", "0", "many", None])
def test_without_it_torch_and_we_take_the_same(monkeypatch, given):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = "import torch; print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert num_threads() == int(done.stdout)
