"""Plan: which instances would train on a bucket's videos, for how many hours and dollars."""

from dataclasses import dataclass

from cloud.prices import PriceList

SPOT, ON_DEMAND = "spot", "on-demand"


class PlanError(Exception):
    """Nothing may be started as asked; one line that says why and what to do."""


@dataclass(frozen=True)
class Videos:
    """What lies under s3://BUCKET/data; `hours` of it are estimated unless they were given."""

    size_bytes: int
    files: int
    hours: float
    estimated: bool


@dataclass(frozen=True)
class Constraints:
    """What the user allows; None leaves it open."""

    instance: str | None = None
    markets: tuple[str, ...] = (SPOT, ON_DEMAND)  # (SPOT,) for --spot-only and so on
    max_cost: float | None = None  # dollars
    max_hours: float | None = None


@dataclass(frozen=True)
class Choice:
    """One way to start an instance, and what the whole training would take on it."""

    instance_type: str
    vcpus: int
    gpu: str  # its name; "" for none
    market: str  # spot or on-demand
    zone: str  # "us-east-1a"; "" where zones could not be read: any will do
    dollars_per_hour: float  # of the instance itself
    hours: float
    dollars: float  # with its disk and address


def make_plan(
    videos: Videos, rates: "Rates", prices: PriceList, constraints: Constraints
) -> list[Choice]:
    """The choices in the order to try them, cheapest first; never empty.

    Raises PlanError where none keeps within the constraints.
    """
    raise NotImplementedError
