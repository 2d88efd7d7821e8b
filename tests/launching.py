"""Launching: runs and instances as the tests of the launcher need them."""

from dataclasses import asdict, replace
from pathlib import Path

from cloud.launch import prepare_ground
from cloud.plan import ON_DEMAND, SPOT, Choice
from cloud.run_record import Attempt, Limits, RunPlan, RunRecord, utc_now
from cloud.screen import Screen
from cloud.start import Ground, Run
from tests.aws_world import REGION, World

ROOT = Path(__file__).resolve().parent.parent
NAME = "2026-11-22_06-10-00-train-x7k2"
QUICK = Limits(
    max_hours=2.0,
    follow_seconds=0.05,
    silent_seconds=60.0,
    stop_seconds=1.0,
    take_over_seconds=0.5,
    capacity_minutes=0.002,
)
ATTEMPT = Attempt(
    number=1,
    client_token="token",
    instance_type="c7i.2xlarge",
    market=SPOT,
    zone="us-east-1a",
    dollars_per_hour=0.5,
    max_minutes=60,
    dollars_before=0.0,
    deadline="2026-11-22T08:00:00+00:00",
    launcher="somebody",
)


def choice(kind: str = "c7i.2xlarge", market: str = SPOT, zone: str = "us-east-1a") -> Choice:
    return Choice(kind, 8, "", market, zone, 0.4, hours=1.0, dollars=0.5)


CHOICES = [
    choice(zone="us-east-1a"),
    choice(zone="us-east-1b"),
    choice("c6i.4xlarge"),
    choice(market=ON_DEMAND),
]


def make_run(world: World, choices=CHOICES, limits: Limits = QUICK, **changes) -> Run:
    """A run on record, with no attempt yet."""
    bucket = world.new_bucket(**{"data/ads/a.mp4": b"a"})
    plan = RunPlan(
        NAME, bucket, REGION, "train.py", [], "0" * 64, utc_now(), "me", limits=limits,
        choices=[asdict(one) for one in choices],
    )  # fmt: skip
    run = Run(replace(plan, **changes), RunRecord(bucket, NAME))
    run.record.write_plan(run.plan)
    return run


def make_ground(run: Run) -> Ground:
    return prepare_ground(run.choices, run.plan.bucket, run.plan.region)


class Listener(Screen):
    """A screen that nobody sees; `said` is what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.is_terminal = False
        self.said: list[str] = []

    def print(self, line: str = "") -> None:
        self.said.append(line)

    def live(self, line: str, key: object) -> None:
        self.said.append(line)

    def has(self, part: str) -> bool:
        return any(part in line for line in self.said)
