"""Quotas: which choices an account may start, and how to ask for more."""

import pytest

from cloud.aws import AwsError
from cloud.plan import Choice, PlanError
from cloud.prices import ON_DEMAND, SPOT
from cloud.quotas import CODES, Quota, raise_quota, read_quotas, within_quotas
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


def choice(name="c7i.2xlarge", vcpus=8, gpu="", market=SPOT):
    return Choice(name, vcpus, gpu, market, "us-east-1a", 0.14, 2.0, 0.3)


GPU = choice("g4dn.xlarge", 4, "T4")


def test_only_quotas_that_choices_fall_under_are_read(world):
    world.calls.clear()
    (quota,) = read_quotas(REGION, [choice(), choice("c7i.4xlarge", 16)])
    assert quota == Quota("L-34B43A08", False, SPOT, 256.0)
    assert len(world.called("GetServiceQuota")) == 1


def test_each_kind_and_market_has_its_quota(world):
    choices = [choice(gpu=gpu, market=market) for gpu in ("", "T4") for market in (SPOT, ON_DEMAND)]
    quotas = read_quotas(REGION, choices)
    assert {quota.code for quota in quotas} == set(CODES.values())
    for one in choices:
        assert sum(quota.governs(one) for quota in quotas) == 1


def test_choices_above_a_quota_are_left_out():
    quotas = [Quota("L-1", False, SPOT, 8), Quota("L-2", True, SPOT, 0)]
    small, large, on_demand = choice(), choice(vcpus=16), choice(market=ON_DEMAND)
    assert within_quotas([small, large, GPU, on_demand], quotas, REGION) == [small, on_demand]


def test_quotas_that_allow_none_are_refused_with_the_command_that_asks_for_more():
    with pytest.raises(PlanError) as error:
        within_quotas([GPU], [Quota("L-3819A6DF", True, SPOT, 0)], REGION)
    assert (
        "request-service-quota-increase --service-code ec2 --quota-code L-3819A6DF "
        "--desired-value 4 --region us-east-1" in str(error.value)
    )
    assert "\n" not in str(error.value)


def test_command_names_the_region():
    assert raise_quota(Quota("L-1", False, SPOT, 0), 8, "eu-west-1").endswith("eu-west-1`")


def test_what_aws_refuses_is_raised(world):
    world.fail("GetServiceQuota", "denied", count=float("inf"))
    with pytest.raises(AwsError, match="servicequotas:GetServiceQuota"):
        read_quotas(REGION, [choice()])
