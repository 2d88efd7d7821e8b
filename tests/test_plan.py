"""Plan: hours and dollars from measured rates and prices, the order, the limits, the lines."""

import json
import re
from dataclasses import replace

import pytest

from cloud.plan import (
    ON_DEMAND,
    RATES,
    SPOT,
    VIDEO_SUFFIXES,
    Constraints,
    PlanError,
    Rates,
    Videos,
    cost_steps,
    describe_plan,
    disk_gigabytes,
    hours_limit,
    list_videos,
    make_plan,
    measure_videos,
    read_rates,
    read_videos,
    time_steps,
)
from cloud.prices import InstanceType, Price, PriceList, bundled_prices
from cloud.s3 import S3Error, S3Object

CPU = InstanceType("c7i.2xlarge", 8, "")
BIG = InstanceType("c7i.8xlarge", 32, "")
GPU = InstanceType("g4dn.xlarge", 4, "T4")
RATES_MADE = Rates(  # of easy numbers
    script="cost_optimized_train.py",
    source="a machine, 2026-11-22: a command",
    fps=4,
    frame_bytes=25_000,
    decoding_times_real_time=25.0,
    trunk_frames_per_second=100.0,
    clip_hop_seconds=5.0,
    head_epochs=50,
    head_clips_per_second=4000.0,
)
VIDEOS = Videos(size_bytes=360_000_000_000, files=300, hours=200.0, estimated=False)


def price_list(*rows) -> PriceList:
    """Of (type, market, zone, dollars an hour)."""
    return PriceList(
        "us-east-1", tuple(Price(*row) for row in rows), 0.08, 0.005, 0.02, ("a source",)
    )


PRICES = price_list(
    (GPU, SPOT, "us-east-1a", 0.21),
    (GPU, ON_DEMAND, "us-east-1a", 0.526),
    (CPU, ON_DEMAND, "us-east-1a", 0.357),
    (CPU, SPOT, "us-east-1b", 0.15),
    (CPU, SPOT, "us-east-1a", 0.14),
    (BIG, SPOT, "us-east-1a", 0.60),
)


def plan(constraints=None, *, prices=PRICES, videos=VIDEOS):
    return make_plan(videos, RATES_MADE, prices, constraints or Constraints())


def names(choices):
    return [(choice.instance_type, choice.market, choice.zone) for choice in choices]


def test_hours_are_start_decoding_trunk_and_heads():
    start, decoding, trunk, heads = time_steps(VIDEOS, RATES_MADE, 8)
    assert start.amount == pytest.approx(10 / 60)
    assert decoding.amount == pytest.approx(200 / (25 * 8))
    assert trunk.amount == pytest.approx(200 * 3600 * 4 / (100 * 8) / 3600)
    assert heads.amount == pytest.approx(50 * (200 * 3600 / 5) / 4000 / 3600)
    (choice, *_) = plan()
    assert choice.hours == pytest.approx(1 / 6 + 1 + 1 + 0.5)


def test_dollars_are_those_of_instance_disk_and_address():
    hours = 1 / 6 + 1 + 1 + 0.5
    disk_gb = disk_gigabytes(VIDEOS, RATES_MADE)
    assert disk_gb == 30 + 80  # 2.88 million frames of 25 kB, and their embeddings of 2,560 bytes
    expected = hours * (0.14 + disk_gb * 0.08 / 730 + 0.005)
    assert plan()[0].dollars == pytest.approx(expected)
    steps = cost_steps(VIDEOS, RATES_MADE, PRICES, 0.14, hours)
    assert [step.name for step in steps] == ["instance", "disk", "address"]


def test_choices_are_tried_from_the_cheapest_on():
    choices = plan()
    assert [choice.dollars for choice in choices] == sorted(c.dollars for c in choices)
    assert names(choices)[:2] == [
        ("c7i.2xlarge", SPOT, "us-east-1a"),
        ("c7i.2xlarge", SPOT, "us-east-1b"),
    ]
    assert len(choices) == len(PRICES.prices)


def test_dear_and_fast_can_cost_less_than_cheap_and_slow():
    choices = plan(prices=price_list((GPU, SPOT, "a", 0.30), (BIG, SPOT, "a", 0.31)))
    assert choices[0].instance_type == "c7i.8xlarge"
    assert choices[0].hours < choices[1].hours


def test_at_the_same_price_the_one_that_nobody_takes_away_comes_first():
    choices = plan(prices=price_list((CPU, SPOT, "a", 0.3), (CPU, ON_DEMAND, "a", 0.3)))
    assert [choice.market for choice in choices] == [ON_DEMAND, SPOT]


@pytest.mark.parametrize("market", [SPOT, ON_DEMAND])
def test_only_the_allowed_markets_are_in_it(market):
    assert {choice.market for choice in plan(Constraints(markets=(market,)))} == {market}


def test_one_instance_type_may_be_asked_for():
    choices = plan(Constraints(instance="g4dn.xlarge"))
    assert {choice.instance_type for choice in choices} == {"g4dn.xlarge"}


def test_a_market_that_does_not_sell_the_type_is_said():
    with pytest.raises(PlanError, match=r"us-east-1 sells no c7i\.8xlarge as on-demand: allow"):
        plan(Constraints(instance="c7i.8xlarge", markets=(ON_DEMAND,)))


def test_choices_above_max_cost_are_left_out():
    dearest = plan()[-1].dollars
    choices = plan(Constraints(max_cost=dearest - 0.01))
    assert len(choices) == len(PRICES.prices) - 1
    assert all(choice.dollars < dearest for choice in choices)


def test_max_cost_below_the_cheapest_is_refused_with_what_it_takes():
    best = plan()[0]
    with pytest.raises(PlanError) as error:
        plan(Constraints(max_cost=0.10))
    said = str(error.value)
    assert f"{best.hours:.1f} h and ${best.dollars:.2f}, above --max-cost 0.1" in said
    assert "c7i.2xlarge spot us-east-1a" in said
    assert ": allow more" in said
    assert "\n" not in said


def test_a_cost_that_is_just_allowed_is_not_refused():
    best = plan()[0]
    assert plan(Constraints(max_cost=best.dollars))[0] == best


def test_max_hours_leaves_the_fast_ones_and_says_what_the_fastest_takes():
    fast = min(choice.hours for choice in plan())
    choices = plan(Constraints(max_hours=fast))
    assert {choice.instance_type for choice in choices} == {"c7i.8xlarge"}
    with pytest.raises(PlanError, match=r"the fastest way, c7i\.8xlarge .* more than --max-hours"):
        plan(Constraints(max_hours=0.5))


def test_max_hours_within_max_cost_says_what_that_money_would_do():
    cheap = plan()[0].dollars
    with pytest.raises(PlanError, match=r"the fastest way for up to \$0\.\d+, c7i\.2xlarge"):
        plan(Constraints(max_cost=round(cheap, 2) + 0.01, max_hours=1.0))


def test_a_run_without_a_limit_gets_three_times_the_slowest_choice():
    choices = plan()
    assert hours_limit(choices) == pytest.approx(3 * max(choice.hours for choice in choices))
    tiny = replace(VIDEOS, hours=0.01)
    assert hours_limit(plan(videos=tiny, prices=price_list((BIG, SPOT, "a", 0.6)))) == 1.0


# What lies in S3


def s3_object(name: str, size_bytes: int) -> S3Object:
    return S3Object(f"s3://videos/data/{name}", size_bytes, '"1"', 0.0)


@pytest.fixture
def listing(monkeypatch):
    objects = []
    monkeypatch.setattr("cloud.plan.list_objects", lambda url: iter(objects))
    return objects


def test_only_videos_count(listing):
    listing += [s3_object("ads/a.MP4", 900), s3_object("ads/a.csv", 50), s3_object("b.ts", 100)]
    videos = read_videos("videos")
    assert (videos.files, videos.size_bytes) == (2, 1000)


def test_video_suffixes_are_those_that_are_prepared():
    from utils.recordings import VIDEO_SUFFIXES as PREPARED

    assert VIDEO_SUFFIXES == PREPARED


def test_hours_are_estimated_from_bytes_unless_they_are_given():
    an_hour = [s3_object("a.mp4", 1_800_000_000)]  # at 4 Mbit/s
    assert measure_videos(an_hour) == Videos(1_800_000_000, 1, pytest.approx(1.0), estimated=True)
    assert measure_videos(an_hour, 2.5) == Videos(1_800_000_000, 1, 2.5, estimated=False)


def test_a_bucket_without_videos_is_refused_with_the_cure(listing):
    listing += [s3_object("notes.txt", 10)]
    with pytest.raises(PlanError, match=r"s3://videos/data has no video .* upload videos"):
        list_videos("videos")


def test_what_s3_refuses_is_passed_on(monkeypatch):
    def refuse(url):
        raise S3Error("access denied: allow it", url)

    monkeypatch.setattr("cloud.plan.list_objects", refuse)
    with pytest.raises(S3Error, match="access denied"):
        read_videos("videos")


# What was measured


@pytest.mark.parametrize("script", ["cost_optimized_train.py", "train.py"])
def test_rates_are_kept_for_both_scripts_with_date_and_command(script):
    rates = read_rates(script)
    assert rates.script == script
    assert re.search(r"cores, .* 20\d\d-\d\d-\d\d: `python -m benchmarks\.prepare", rates.source)
    assert "benchmarks.frozen" in rates.source
    assert min(rates.decoding_times_real_time, rates.trunk_frames_per_second) > 1


def test_rates_are_of_the_constants_that_the_scripts_have():
    import cost_optimized_train
    import train

    kept = json.loads(RATES.read_bytes())["scripts"]
    for module in (cost_optimized_train, train):
        row = kept[f"{module.__name__}.py"]
        assert row["fps"] == module.FPS
        assert row["frame_bytes"] == module.FRAME_SIZE[0] * module.FRAME_SIZE[1] * 3
        assert row["clip_hop_seconds"] == module.CLIP_HOP_SECONDS
        assert row["head_epochs"] % module.EPOCHS == 0


def test_another_script_is_planned_as_the_default_one():
    assert read_rates("my_train.py") == read_rates("cost_optimized_train.py")


def test_two_hundred_hours_are_projected_below_a_dollar_on_spot():
    rates, prices = read_rates(), bundled_prices("us-east-1")
    best = make_plan(VIDEOS, rates, prices, Constraints(markets=(SPOT,)))[0]
    assert best.dollars <= 1.00
    slow = replace(rates, decoding_times_real_time=rates.decoding_times_real_time / 10)
    assert make_plan(VIDEOS, slow, prices, Constraints(markets=(SPOT,)))[0].dollars > 1.00


# What is printed


def described(videos=VIDEOS, prices=PRICES, choices=None):
    choices = choices or plan(videos=videos, prices=prices)
    return describe_plan("videos", videos, RATES_MADE, prices, choices)


def test_printed_formulas_give_the_printed_amounts():
    """Each line is computed again from what it says."""
    words = {"min for boot and packages": "/ 60", "x real time a core": "", "a core and second": ""}
    words |= {"h / (": "/ (", " h x": " x", "vCPU": "", "frames": "", "epochs": "", "clips": ""}
    words |= {"a second": "", "GB": "", "$": "", ",": "", " x ": " * ", " h": ""}
    computed = 0
    for line in described():
        match = re.fullmatch(r"  (\w+) +(\S.*?\S) +(\$ *)?([\d.]+)( h)?", line)
        if not match or match[1] == "together":
            continue
        formula = match[2]
        for word, replacement in words.items():
            formula = formula.replace(word, replacement)
        assert eval(formula) == pytest.approx(float(match[4]), abs=0.006), line
        computed += 1
    assert computed == 4 + 3


def test_printed_sums_are_those_of_their_lines():
    lines = described()
    hours = [float(m[1]) for line in lines if (m := re.search(r" ([\d.]+) h$", line))]
    dollars = [float(m[1]) for line in lines if (m := re.search(r"\$ *([\d.]+)$", line))]
    for *parts, together in (hours, dollars):
        assert sum(parts) == pytest.approx(together, abs=0.02)


def test_estimated_hours_say_from_what_and_how_to_correct_them():
    guessed = described(replace(VIDEOS, estimated=True))[0]
    assert "200.0 hours if a second has 4 Mbit (--video-hours says what is true)" in guessed
    assert "if a second" not in described()[0]


def test_sources_of_prices_and_rates_are_printed():
    text = "\n".join(described())
    assert "a source" in text
    assert RATES_MADE.source in text


def test_what_stays_in_s3_is_named_with_its_price():
    assert "some 80 GB, $1.60 a month until you delete store/" in described()[-1]


def test_first_choice_and_the_cheapest_gpu_are_in_the_table():
    many = [(replace(CPU, name=f"c{n}.2xlarge"), SPOT, "a", 0.14 + n / 100) for n in range(12)]
    lines = described(prices=price_list(*many, (GPU, SPOT, "a", 0.21)))
    table = lines[lines.index("choices, in the order they are tried:") + 2 :]
    assert table[0].split()[0] == "c0.2xlarge"
    assert any(line.split()[:1] == ["g4dn.xlarge"] for line in table)
    assert any("more types, markets and zones" in line for line in table)


def verdict(gpu_dollars: float) -> str:
    rows = (CPU, SPOT, "a", 0.14), (GPU, SPOT, "a", gpu_dollars)
    (line,) = [line for line in described(prices=price_list(*rows)) if line.startswith("GPU or")]
    return line


def test_says_whether_a_gpu_would_be_cheaper():
    assert "without a GPU it is cheaper: $0.42 on c7i.2xlarge" in verdict(0.60)
    assert "without a GPU it is cheaper, as far as was measured" in verdict(0.15)
    assert "with a GPU it is cheaper" in verdict(0.02)
    only_cpu = described(prices=price_list((CPU, SPOT, "a", 0.14)))
    assert not any(line.startswith("GPU or not") for line in only_cpu)
