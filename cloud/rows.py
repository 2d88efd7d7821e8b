"""Rows: what a check looked for, what it found, and the cure; needs nothing installed."""

from __future__ import annotations  # check_setup.py prints them on a Python too old to train with

from collections import namedtuple

Row = namedtuple("Row", "state requirement found cure")  # state is ok, note or MISSING


def print_rows(rows: list[Row]) -> None:
    width = max(len(row.requirement) for row in rows)
    for row in rows:
        print(f"{row.state:<7}  {row.requirement:<{width}}  {row.found}")
        if row.cure:
            print(f"{'':<7}  {'':<{width}}  -> {row.cure}")
