"""Faults"""
import pytest
from trials import Book, Trial


@pytest.fixture
def trial(tmp_path):
    trial = Trial(tmp_path)
    yield trial
    trial.close()

def test_whole(trial):
    said = trial.run(seconds=60)
    print(said[1])
    print(trial.world.machines[0].console)
    import collections
    print(collections.Counter((c.side,c.name) for c in trial.world.calls))
    print(trial.limits)
    trial.check("none", said, code=0, finished=True)
