"""Plan: which instances would train on a bucket's videos, in how many hours, for what money.

hours    = start + decoding + trunk + heads, each from a measured rate
dollars  = hours x (price of the instance + of its disk + of its address)
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud.aws import CloudError
from cloud.prices import HOURS_A_MONTH, ON_DEMAND, SPOT, Price, PriceList
from cloud.s3 import S3Object, list_objects

RATES = Path(__file__).with_name("rates.json")  # python -m benchmarks.cost --keep writes it
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".ts", ".avi", ".webm", ".mpg")  # as utils/recordings.py
ASSUMED_MEGABITS = 4.0  # a second of video; 1.8 GB an hour, as broadcasts of 1280x720 have
START_HOURS = 10 / 60  # boot, and the packages of the lock: 2.5 minutes on two idle cores
SYSTEM_GB = 30  # of the disk, for the system and the packages
EMBEDDING_BYTES = 1280 * 2  # of a frame
HOURS_OVER = 3.0  # the limit on hours, where none is given: so many times what was planned
SHOWN = 8  # choices
FORMULA_WIDTH = 70  # characters


class PlanError(CloudError):
    """Nothing may be started as asked; one line that says why and what to do."""


@dataclass(frozen=True)
class Videos:
    """What lies under s3://BUCKET/data; `hours` of it are estimated unless they were given."""

    size_bytes: int
    files: int
    hours: float
    estimated: bool


@dataclass(frozen=True)
class Rates:
    """What training with a script's constants was measured at; `source` says where and when."""

    script: str
    source: str
    fps: float  # frames kept of each second
    frame_bytes: int
    decoding_times_real_time: float  # by one core
    trunk_frames_per_second: float  # by one core
    clip_hop_seconds: float
    head_epochs: int  # judging every group included
    head_clips_per_second: float  # by the machine that measured


@dataclass(frozen=True)
class Constraints:
    """What the user allows; None leaves it open."""

    instance: str | None = None
    markets: tuple[str, ...] = (SPOT, ON_DEMAND)
    max_cost: float | None = None  # dollars
    max_hours: float | None = None


@dataclass(frozen=True)
class Step:
    """A part of the training, or of the bill: what it is made of, and how much that is."""

    name: str
    formula: str
    amount: float  # hours or dollars


@dataclass(frozen=True)
class Choice:
    """One way to start an instance, and what the whole training would take on it."""

    instance_type: str
    vcpus: int
    gpu: str  # its name; "" for none
    market: str  # spot or on-demand
    zone: str  # "us-east-1a"; "" where the zones can't be had: any will do
    dollars_per_hour: float  # of the instance itself
    hours: float
    dollars: float  # with its disk and address


def read_videos(bucket: str, hours: float | None = None) -> Videos:
    """How much video there is; `hours` of it, or what its size says where that is None.

    Raises PlanError where there is none, and S3Error.
    """
    return measure_videos(list_videos(bucket), hours)


def list_videos(bucket: str) -> list[S3Object]:
    """The videos under s3://BUCKET/data. Raises PlanError where there is none, and S3Error."""
    objects = list_objects(f"s3://{bucket}/data")
    videos = [item for item in objects if item.url.lower().endswith(VIDEO_SUFFIXES)]
    if not videos:
        raise PlanError(
            f"s3://{bucket}/data has no video ({' '.join(VIDEO_SUFFIXES)}): put them there with "
            f"./run_training.sh upload {bucket}"
        )
    return videos


def measure_videos(videos: Sequence[S3Object], hours: float | None = None) -> Videos:
    """How much these are; they last `hours`, or what their size says where that is None."""
    size_bytes = sum(video.size_bytes for video in videos)
    estimate = size_bytes * 8 / (ASSUMED_MEGABITS * 1e6) / 3600
    return Videos(size_bytes, len(videos), hours or estimate, estimated=not hours)


def read_rates(script: str = "cost_optimized_train.py") -> Rates:
    """What was measured, as the constants of this script are; of an unknown one as of the default.

    The rates lie in the repository, from a machine that is named in them.
    """
    kept = json.loads(RATES.read_bytes())
    known = script if script in kept["scripts"] else "cost_optimized_train.py"
    return Rates(script=known, source=kept["source"], **kept["scripts"][known])


def make_plan(
    videos: Videos, rates: Rates, prices: PriceList, constraints: Constraints
) -> list[Choice]:
    """The choices in the order to try them, cheapest first; never empty.

    Raises PlanError where none keeps within the constraints.
    """
    choices = [
        _choose(price, videos, rates, prices)
        for price in prices.prices
        if price.market in constraints.markets
        and constraints.instance in (None, price.instance.name)
    ]
    if not choices:
        asked = " or ".join(constraints.markets)
        raise PlanError(
            f"{prices.region} sells no {constraints.instance or 'instance'} as {asked}: allow the "
            "other market, or pass another --instance or --region"
        )
    # At the same price the one that nobody takes away.
    choices.sort(key=lambda choice: (choice.dollars, choice.market, choice.zone))
    return _within(choices, constraints)


def time_steps(videos: Videos, rates: Rates, vcpus: int) -> tuple[Step, ...]:
    """The parts of a training, in hours. On GPU instances too the processor runs the trunk."""
    frames = videos.hours * 3600 * rates.fps
    clips = videos.hours * 3600 / rates.clip_hop_seconds
    decoding, trunk = rates.decoding_times_real_time, rates.trunk_frames_per_second
    return (
        Step("start", f"{START_HOURS * 60:.0f} min for boot and packages", START_HOURS),
        Step(
            "decoding",
            f"{videos.hours:.1f} h / ({decoding:.1f} x real time a core x {vcpus} vCPU)",
            videos.hours / (decoding * vcpus),
        ),
        Step(
            "trunk",
            f"{videos.hours:.1f} h x 3600 x {rates.fps:g} frames / "
            f"({trunk:.0f} a core and second x {vcpus} vCPU) / 3600",
            frames / (trunk * vcpus) / 3600,
        ),
        Step(
            "heads",
            f"{rates.head_epochs} epochs x {clips:,.0f} clips / "
            f"{rates.head_clips_per_second:,.0f} a second / 3600",
            rates.head_epochs * clips / rates.head_clips_per_second / 3600,
        ),
    )


def cost_steps(
    videos: Videos, rates: Rates, prices: PriceList, dollars_per_hour: float, hours: float
) -> tuple[Step, ...]:
    """The parts of the bill, in dollars."""
    disk_gb, month = disk_gigabytes(videos, rates), prices.disk_dollars_gb_month
    address = prices.address_dollars_hour
    return (
        Step("instance", f"{hours:.2f} h x ${dollars_per_hour:g}", hours * dollars_per_hour),
        Step(
            "disk",
            f"{hours:.2f} h x {disk_gb} GB x ${month:g} / {HOURS_A_MONTH:.0f} h",
            hours * disk_gb * month / HOURS_A_MONTH,
        ),
        Step("address", f"{hours:.2f} h x ${address:g}", hours * address),
    )


def disk_gigabytes(videos: Videos, rates: Rates) -> int:
    """What the disk of an instance must hold: the system, the prepared frames, the embeddings."""
    frames = videos.hours * 3600 * rates.fps
    return SYSTEM_GB + math.ceil(frames * (rates.frame_bytes + EMBEDDING_BYTES) / 1e9)


def hours_limit(choices: Sequence[Choice]) -> float:
    """After how many hours to end a run whose user set no limit: well over the slowest choice."""
    return max(1.0, HOURS_OVER * max(choice.hours for choice in choices))


def describe_plan(
    bucket: str, videos: Videos, rates: Rates, prices: PriceList, choices: Sequence[Choice]
) -> list[str]:
    """The lines to print: what is known, the arithmetic of the first choice, and the others."""
    hours = f"{videos.hours:.1f} hours"
    if videos.estimated:
        hours += f" if a second has {ASSUMED_MEGABITS:g} Mbit (--video-hours says what is true)"
    size = f"{videos.files:,} files, {videos.size_bytes / 1e9:.1f} GB"
    best = choices[0]
    steps = time_steps(videos, rates, best.vcpus)
    bill = cost_steps(videos, rates, prices, best.dollars_per_hour, best.hours)
    stored_gb = disk_gigabytes(videos, rates) - SYSTEM_GB
    return [
        f"videos     s3://{bucket}/data: {size}, {hours}",
        f"rates      {rates.script}: {rates.source}",
        *(f"{'prices' if not n else '':<10} {line}" for n, line in enumerate(prices.sources)),
        "",
        f"{_name(best)} at ${best.dollars_per_hour:g} an hour",
        *(
            f"  {step.name:<9} {step.formula:<{FORMULA_WIDTH}} {step.amount:7.2f} h"
            for step in steps
        ),
        f"  {'together':<9} {'':<{FORMULA_WIDTH}} {best.hours:7.2f} h",
        *(f"  {step.name:<9} {step.formula:<{FORMULA_WIDTH}} ${step.amount:6.2f}" for step in bill),
        f"  {'together':<9} {'':<{FORMULA_WIDTH}} ${best.dollars:6.2f}",
        "",
        *_table(choices),
        "",
        *_gpu_or_cpu(videos, rates, prices, choices),
        "not counted: constants changed after --, interruptions of spot instances, taxes, "
        "fine-tuning the trunk (which a GPU does unless told -- --fine-tune-blocks 0), and what "
        f"stays in S3: the prepared recordings are some {stored_gb} GB, "
        f"${stored_gb * prices.storage_dollars_gb_month:.2f} a month until you delete store/",
    ]


def _choose(price: Price, videos: Videos, rates: Rates, prices: PriceList) -> Choice:
    instance, dollars_per_hour = price.instance, price.dollars_per_hour
    hours = sum(step.amount for step in time_steps(videos, rates, instance.vcpus))
    bill = cost_steps(videos, rates, prices, dollars_per_hour, hours)
    return Choice(
        instance_type=instance.name,
        vcpus=instance.vcpus,
        gpu=instance.gpu,
        market=price.market,
        zone=price.zone,
        dollars_per_hour=dollars_per_hour,
        hours=hours,
        dollars=sum(step.amount for step in bill),
    )


def _within(choices: list[Choice], constraints: Constraints) -> list[Choice]:
    """Those that keep the limits. Raises PlanError where none does."""
    max_cost, max_hours = constraints.max_cost, constraints.max_hours
    cheap = [c for c in choices if max_cost is None or c.dollars <= max_cost]
    if not cheap:
        best = choices[0]
        raise PlanError(
            f"the cheapest way, {_name(best)}, takes {best.hours:.1f} h and ${best.dollars:.2f}, "
            f"above --max-cost {max_cost:g}: allow more, or put fewer hours of video there"
        )
    kept = [c for c in cheap if max_hours is None or c.hours <= max_hours]
    if not kept:
        fastest = min(cheap, key=lambda choice: choice.hours)
        money = f" for up to ${max_cost:g}" if max_cost is not None else ""
        raise PlanError(
            f"the fastest way{money}, {_name(fastest)}, takes {fastest.hours:.1f} h, more than "
            f"--max-hours {max_hours:g}: allow more, or put fewer hours of video there"
        )
    return kept


def _table(choices: Sequence[Choice]) -> list[str]:
    """The cheapest zone of each type and market, in the order in which they are tried."""
    first: dict[tuple[str, str], Choice] = {}
    for choice in choices:
        first.setdefault((choice.instance_type, choice.market), choice)
    shown = list(first.values())[:SHOWN]
    with_gpu = next((choice for choice in first.values() if choice.gpu), None)
    if with_gpu and with_gpu not in shown:
        shown.append(with_gpu)  # for comparison
    rows = [
        f"  {c.instance_type:<13} {c.vcpus:>5} {c.gpu or '-':<5} {c.market:<10} "
        f"{c.zone or 'any zone':<12} {c.dollars_per_hour:9.4f} {c.hours:7.2f} {c.dollars:9.2f}"
        for c in shown
    ]
    head = f"  {'':<13} {'vCPUs':>5} {'GPU':<5} {'market':<10} {'zone':<12} {'$/hour':>9}"
    more = len(choices) - len(shown)
    return [
        "choices, in the order they are tried:",
        f"{head} {'hours':>7} {'dollars':>9}",
        *rows,
        *([f"  and {more} more types, markets and zones"] if more else []),
    ]


def _gpu_or_cpu(
    videos: Videos, rates: Rates, prices: PriceList, choices: Sequence[Choice]
) -> list[str]:
    """Which is cheaper; for a GPU also at its very best, since none was measured."""
    without = next((c for c in choices if not c.gpu), None)
    with_gpu = [c for c in choices if c.gpu]
    if not without or not with_gpu:
        return []

    def at_best(choice: Choice) -> float:
        start, decoding, *_ = time_steps(videos, rates, choice.vcpus)
        hours = start.amount + decoding.amount
        bill = cost_steps(videos, rates, prices, choice.dollars_per_hour, hours)
        return sum(step.amount for step in bill)

    gpu, best = with_gpu[0], min(with_gpu, key=at_best)
    cheaper = "with a GPU it is cheaper"
    if without.dollars <= gpu.dollars:
        cheaper = "without a GPU it is cheaper, as far as was measured"
    if without.dollars <= at_best(best):
        cheaper = "without a GPU it is cheaper"
    return [
        f"GPU or not: {cheaper}: ${without.dollars:.2f} on {without.instance_type}, "
        f"${gpu.dollars:.2f} on {gpu.instance_type}; if its GPU did trunk and heads in no time at "
        f"all, ${at_best(best):.2f} on {best.instance_type}, since decoding is left to the "
        "processor"
    ]


def _name(choice: Choice) -> str:
    return " ".join(filter(None, (choice.instance_type, choice.market, choice.zone)))
