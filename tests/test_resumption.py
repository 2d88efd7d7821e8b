"""A resumed run says which constants differ, and takes over what it can."""

import dataclasses

import pytest

from utils.config import Config
from utils.resumption import ON_RESUME, ResumeError, compare_constants

RUN = {"epochs": 8, "batch_size": 8, "frame_size": (96, 96), "seed": 42}


def test_each_constant_has_its_line_in_the_table():
    assert set(ON_RESUME) == {field.name for field in dataclasses.fields(Config)}


def test_nothing_is_said_where_nothing_differs():
    assert compare_constants(RUN, RUN, {"epochs", "frame_size"}) == []


def test_what_was_asked_for_is_taken_over_and_said():
    lines = compare_constants(RUN, RUN | {"epochs": 12, "batch_size": 4}, {"epochs", "batch_size"})
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "EPOCHS from 8 to 12, from here on",
        "BATCH_SIZE from 8 to 4, from here on",
    ]


def test_what_stands_otherwise_in_the_script_stays_as_the_run_has_it():
    epochs, size = compare_constants(RUN, RUN | {"epochs": 12, "frame_size": (64, 64)}, set())
    assert epochs.endswith(
        "EPOCHS = 8, as the run began; the script says 12 (--epochs would change it)"
    )
    assert size.endswith("FRAME_SIZE = 96,96, as the run began; the script says 64,64")


def test_what_does_not_fit_is_refused_all_at_once_with_reason_and_cure():
    wanted = RUN | {"frame_size": (64, 64), "seed": 7, "epochs": 9}
    with pytest.raises(ResumeError) as error:
        compare_constants(RUN, wanted, set(wanted))
    said = str(error.value)
    assert "--frame-size (from 96,96 to 64,64: the clips" in said
    assert "--seed (from 42 to 7: " in said
    assert "epochs" not in said
    assert said.endswith("leave it out, or start a new run")
    assert "\n" not in said
