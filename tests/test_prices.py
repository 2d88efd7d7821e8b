"""Prices: those of now where AWS gives them, of the bundled table where not, and which is said."""

import json
import re

import pytest

from cloud import prices
from cloud.aws import CloudError
from cloud.prices import (
    ON_DEMAND,
    SPOT,
    TABLE,
    PriceList,
    bundled_prices,
    instance_types,
    read_prices,
)
from tests.aws_world import REGION
from tests.own_world import own_world


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory):
    with own_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(shared_world):
    yield shared_world
    shared_world.faults.clear()


def of(found: PriceList, name: str, market: str) -> dict[str, float]:
    """Dollars by zone."""
    return {
        price.zone: price.dollars_per_hour
        for price in found.prices
        if price.instance.name == name and price.market == market
    }


def test_prices_of_now_by_type_market_and_zone(world):
    found = read_prices(REGION)
    spot, on_demand = of(found, "c7i.2xlarge", SPOT), of(found, "c7i.2xlarge", ON_DEMAND)
    assert spot == pytest.approx(
        {"us-east-1a": 0.357 * 0.42, "us-east-1b": 0.357 * 0.40, "us-east-1c": 0.357 * 0.45}
    )
    assert set(on_demand.values()) == {0.357}
    assert set(spot) <= set(on_demand)
    assert any(line.startswith("spot: price history of us-east-1 at 20") for line in found.sources)
    assert any(re.match("on demand.*: AWS's price list", line) for line in found.sources)


def test_one_type_asks_for_that_one_only(world):
    world.calls.clear()
    found = read_prices(REGION, "g6.xlarge")
    assert {price.instance.name for price in found.prices} == {"g6.xlarge"}
    assert len(world.called("GetProducts")) == 2  # it, and its disk


def test_an_unknown_type_is_refused_with_those_that_are_known():
    with pytest.raises(CloudError, match=r"--instance x1\.metal .* one of .*c7i\.2xlarge"):
        read_prices(REGION, "x1.metal")


def test_a_type_that_the_region_does_not_sell_is_left_out(world, monkeypatch):
    monkeypatch.delitem(world.on_demand, "g5.xlarge")
    found = read_prices(REGION)
    assert of(found, "g5.xlarge", SPOT) == of(found, "g5.xlarge", ON_DEMAND) == {}
    assert of(found, "g5.2xlarge", SPOT)


def test_a_region_without_the_type_says_so(world, monkeypatch):
    monkeypatch.setattr(prices, "_zones", lambda region, wanted: {})
    with pytest.raises(CloudError, match=r"us-east-1 has no g6\.xlarge: pass --region"):
        read_prices(REGION, "g6.xlarge")


def test_refused_price_list_gives_bundled_prices_and_says_which(world):
    world.fail("GetProducts", "denied", count=float("inf"))
    found = read_prices(REGION)
    assert set(of(found, "c7i.2xlarge", ON_DEMAND).values()) == {0.357}
    assert len(of(found, "c7i.2xlarge", SPOT)) == 3
    (line,) = [line for line in found.sources if line.startswith("on demand")]
    assert "the bundled table of us-east-1, read 2026-" in line
    assert "pricing:GetProducts" in line
    assert [line for line in found.sources if "could not be had" in line] == [line]


def test_refused_spot_history_gives_bundled_prices_for_each_zone(world):
    world.fail("DescribeSpotPriceHistory", "denied", count=float("inf"))
    found = read_prices(REGION)
    spot = of(found, "c7i.2xlarge", SPOT)
    table = json.loads(TABLE.read_bytes())["instances"]
    assert len(spot) > 1
    assert set(spot.values()) == {table["c7i.2xlarge"]["spot"]}
    assert of(found, "c6i.2xlarge", SPOT) == {}  # which the table does not know
    assert "bundled" in next(line for line in found.sources if line.startswith("spot"))


def test_without_zones_any_will_do(world):
    world.fail("DescribeInstanceTypeOfferings", "denied", count=float("inf"))
    found = read_prices(REGION)
    assert of(found, "c7i.2xlarge", ON_DEMAND) == {"": 0.357}
    assert "" not in of(found, "c7i.2xlarge", SPOT)  # its history names the zones


def test_with_nothing_to_be_had_the_table_serves_and_says_why(world):
    world.fail("", "busy", count=float("inf"))
    found = read_prices(REGION)
    assert of(found, "c7i.2xlarge", SPOT) == {"": pytest.approx(0.1473)}
    assert sum("could not be had" in line for line in found.sources) == 2


def test_another_region_s_prices_are_said_to_differ(world):
    (line,) = bundled_prices("eu-west-1").sources
    assert "of us-east-1" in line
    assert "eu-west-1 may be half as much again" in line
    assert "half as much" not in bundled_prices("us-east-1").sources[0]


def test_the_newest_price_of_a_zone_counts(world, monkeypatch):
    old = {"InstanceType": "c7i.2xlarge", "AvailabilityZone": "us-east-1a"}
    history = [
        {**old, "SpotPrice": "0.2", "Timestamp": 2},
        {**old, "SpotPrice": "0.1", "Timestamp": 1},
    ]
    real = prices.pages

    def pages(service, operation, *arguments, **named):
        if operation == "describe_spot_price_history":
            return history
        return real(service, operation, *arguments, **named)

    monkeypatch.setattr(prices, "pages", pages)
    assert of(read_prices(REGION, "c7i.2xlarge"), "c7i.2xlarge", SPOT) == {"us-east-1a": 0.2}


def test_list_price_is_of_the_asked_unit_and_not_of_reserved_capacity(monkeypatch):
    def product(unit, dollars):
        dimension = {"unit": unit, "pricePerUnit": {"USD": dollars}}
        return json.dumps({"terms": {"OnDemand": {"T": {"priceDimensions": {"D": dimension}}}}})

    asked = []
    answer = [product("Hrs", "0.0000000000"), product("Hrs", "0.357"), product("GB-Mo", "0.08")]
    monkeypatch.setattr(
        prices, "call", lambda *words, **named: asked.append(named) or {"PriceList": answer}
    )
    wanted = {"instanceType": "c7i.2xlarge"}
    assert prices._list_price("eu-west-1", "Hrs", wanted) == 0.357
    assert prices._list_price("eu-west-1", "GB-Mo", {"volumeApiName": "gp3"}) == 0.08
    assert prices._list_price("eu-west-1", "Quantity", wanted) is None
    filters = {item["Field"]: item["Value"] for item in asked[0]["Filters"]}
    assert filters == {"regionCode": "eu-west-1", "instanceType": "c7i.2xlarge"}


def test_every_bundled_number_has_a_source_and_a_date():
    table = json.loads(TABLE.read_bytes())
    dated = r"read 20\d\d-\d\d-\d\d"
    for key in ("instances_source", "disk_source", "address_source", "storage_source"):
        assert re.search(dated, table[key]), key
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["read"])


def test_bundled_table_is_plausible():
    for name, instance in instance_types().items():
        row = json.loads(TABLE.read_bytes())["instances"][name]
        sizes = {"xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32}
        assert instance.vcpus == sizes[name.partition(".")[2]]
        assert bool(instance.gpu) == name.startswith("g")
        assert 0.02 < row["on_demand"] / instance.vcpus < 0.3
        assert row["spot"] is None or 0.2 < row["spot"] / row["on_demand"] < 0.8
