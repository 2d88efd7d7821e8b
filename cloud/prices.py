"""Prices: what instances, their disks and their addresses cost now, or did in the bundled table."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloud.aws import AwsError, CloudError, call, client, pages

SPOT, ON_DEMAND = "spot", "on-demand"
TABLE = Path(__file__).with_name("prices.json")
PRICE_LIST_REGION = "us-east-1"  # one of three that serve the price list of all regions
HOURS_A_MONTH = 730.0  # as AWS counts when it bills disks by the hour
THREADS = 4  # the price list refuses more than some ten requests a second
LINUX = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",
}


@dataclass(frozen=True)
class InstanceType:
    """A kind of machine that we know how to plan with; all are x86_64."""

    name: str
    vcpus: int
    gpu: str  # its name; "" for none


@dataclass(frozen=True)
class Price:
    """What an instance costs in one zone and market, without disk and address."""

    instance: InstanceType
    market: str  # SPOT or ON_DEMAND
    zone: str  # "us-east-1a"; "" where the zones can't be had: it may be any
    dollars_per_hour: float


@dataclass(frozen=True)
class PriceList:
    """All prices of one region, and where they come from."""

    region: str
    prices: tuple[Price, ...]
    disk_dollars_gb_month: float  # gp3
    address_dollars_hour: float  # public IPv4
    storage_dollars_gb_month: float  # S3 Standard
    sources: tuple[str, ...]  # a line each: what, from where, of when


@functools.cache
def instance_types() -> dict[str, InstanceType]:
    """Those we plan with, by name."""
    return {
        name: InstanceType(name, row["vcpus"], row["gpu"])
        for name, row in _table()["instances"].items()
    }


def bundled_prices(region: str, wanted: list[InstanceType] | None = None) -> PriceList:
    """The bundled table as it is, without a request; it holds prices of one region only."""
    wanted = wanted or list(instance_types().values())
    prices = [
        Price(instance, market, "", dollars)
        for market in (SPOT, ON_DEMAND)
        for instance, dollars in _bundled(market, wanted).items()
    ]
    table = _table()
    return PriceList(
        region,
        tuple(prices),
        table["disk_dollars_gb_month"],
        table["address_dollars_hour"],
        table["storage_dollars_gb_month"],
        (_bundled_source("all prices", region),),
    )


def read_prices(region: str, name: str | None = None) -> PriceList:
    """Prices of now, of the type `name` or of all we know, in each zone that has it.

    Kinds of prices that can't be had come from the bundled table, and `sources` says which and
    why. Raises CloudError for a type that we do not know, or that the region does not have.
    """
    wanted = [_known(name)] if name else list(instance_types().values())
    try:
        zones = _zones(region, wanted)
    except AwsError:  # then any zone will do, and starting there shows whether it has the type
        zones = {instance: [""] for instance in wanted}
    wanted = [instance for instance in wanted if instance in zones]
    if not wanted:
        raise CloudError(
            f"{region} has no {name or 'instance of a type that we plan with'}: pass --region, or "
            f"--instance with another of {', '.join(instance_types())}"
        )
    spot, spot_source = _spot(region, wanted, zones)
    hourly, disk, listed_source = _on_demand(region, wanted)
    on_demand = [
        Price(instance, ON_DEMAND, zone, dollars)
        for instance, dollars in hourly.items()
        for zone in zones[instance]
    ]
    table = _table()
    bundled = f"address and S3: the bundled table, read {table['read']}"
    return PriceList(
        region,
        (*spot, *on_demand),
        disk,
        table["address_dollars_hour"],
        table["storage_dollars_gb_month"],
        (spot_source, listed_source, bundled),
    )


def _known(name: str) -> InstanceType:
    found = instance_types().get(name)
    if not found:
        raise CloudError(
            f"--instance {name} is not one that we can plan with: it is one of "
            f"{', '.join(instance_types())}"
        )
    return found


def _zones(region: str, wanted: list[InstanceType]) -> dict[InstanceType, list[str]]:
    """Of each type that the region has, the zones that have it."""
    offerings = pages(
        "ec2",
        "describe_instance_type_offerings",
        region,
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [item.name for item in wanted]}],
    )
    zones: dict[InstanceType, list[str]] = {}
    for offering in sorted(offerings, key=lambda offering: offering["Location"]):
        instance = instance_types()[offering["InstanceType"]]
        zones.setdefault(instance, []).append(offering["Location"])
    return zones


def _spot(
    region: str, wanted: list[InstanceType], zones: dict[InstanceType, list[str]]
) -> tuple[list[Price], str]:
    """Spot prices, and where they come from."""
    now = datetime.now(UTC)
    try:
        history = pages(
            "ec2",
            "describe_spot_price_history",
            region,
            "SpotPriceHistory",
            InstanceTypes=[item.name for item in wanted],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now,  # answers with the price that each zone has at that moment
        )
    except AwsError as error:
        prices = [
            Price(instance, SPOT, zone, dollars)
            for instance, dollars in _bundled(SPOT, wanted).items()
            for zone in zones[instance]
        ]
        return prices, _bundled_source("spot", region, error)
    newest = {}
    for item in sorted(history, key=lambda item: item["Timestamp"]):
        newest[item["InstanceType"], item["AvailabilityZone"]] = float(item["SpotPrice"])
    prices = [
        Price(instance_types()[name], SPOT, zone, dollars)
        for (name, zone), dollars in sorted(newest.items())
    ]
    return prices, f"spot: price history of {region} at {now:%Y-%m-%d %H:%M} UTC"


def _on_demand(
    region: str, wanted: list[InstanceType]
) -> tuple[dict[InstanceType, float], float, str]:
    """Dollars an hour of each type, those of a disk per GB and month, and where they come from."""
    disk = {"productFamily": "Storage", "volumeApiName": "gp3"}
    asked = [("Hrs", {"instanceType": item.name, **LINUX}) for item in wanted]
    try:
        client("pricing", PRICE_LIST_REGION)  # made once, by one thread
        with ThreadPoolExecutor(THREADS) as threads:
            *found, disk_dollars = threads.map(
                lambda product: _list_price(region, *product), [*asked, ("GB-Mo", disk)]
            )
    except AwsError as error:
        source = _bundled_source("on demand and disk", region, error)
        return _bundled(ON_DEMAND, wanted), _table()["disk_dollars_gb_month"], source
    hourly = {item: dollars for item, dollars in zip(wanted, found, strict=True) if dollars}
    if disk_dollars:
        source = f"on demand and disk: AWS's price list at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return hourly, disk_dollars, source
    source = f"on demand: AWS's price list; {_bundled_source('disk', region)}"
    return hourly, _table()["disk_dollars_gb_month"], source


def _list_price(region: str, unit: str, product: dict[str, str]) -> float | None:
    """Dollars per unit of the one product with these attributes, or None where there is none."""
    fields = {"regionCode": region, **product}
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in fields.items()]
    answer = call(
        "pricing", "get_products", PRICE_LIST_REGION, ServiceCode="AmazonEC2", Filters=filters
    )
    prices = [
        float(dimension["pricePerUnit"].get("USD", 0))
        for item in answer["PriceList"]
        for term in json.loads(item)["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"] == unit
    ]
    return max(prices, default=None)


@functools.cache
def _table() -> dict:
    return json.loads(TABLE.read_bytes())


def _bundled(market: str, wanted: list[InstanceType]) -> dict[InstanceType, float]:
    rows, column = _table()["instances"], market.replace("-", "_")
    return {item: rows[item.name][column] for item in wanted if rows[item.name][column]}


def _bundled_source(what: str, region: str, error: AwsError | None = None) -> str:
    table = _table()
    line = f"{what}: the bundled table of {table['region']}, read {table['read']}"
    if region != table["region"]:
        line += f"; those of {region} may be half as much again"
    return f"{line}; today's could not be had: {error}" if error else line
