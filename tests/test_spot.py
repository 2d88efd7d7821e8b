"""Notices of EC2 are read with a token, and never taken for an error, nor an error for one."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.spot import Metadata, MetadataError, parse_notice
from tests.imds import NOTICE, MetadataService


@pytest.fixture
def service(monkeypatch):
    service = MetadataService()
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    yield service
    service.close()


def test_no_notice_is_none(service):
    assert Metadata().spot_notice() is None
    assert Metadata().rebalance_time() is None


def test_notice_names_action_and_time(service):
    service.give_notice(120, "stop")
    notice = Metadata().spot_notice()
    assert notice.action == "stop"
    assert timedelta(seconds=115) < notice.time - datetime.now(UTC) <= timedelta(seconds=120)
    assert "stop at" in notice.describe()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "null", '{"action": "terminate", "time": "soon"}']
)
def test_notice_that_cannot_be_read_is_one_of_two_minutes(text):
    notice = parse_notice(text)
    assert notice.action == "terminate"
    assert timedelta(seconds=110) < notice.time - datetime.now(UTC) <= timedelta(seconds=120)


def test_notice_without_a_zone_is_of_utc():
    assert parse_notice('{"action": "stop", "time": "2026-11-22T08:00:00"}').time == datetime(
        2026, 11, 22, 8, tzinfo=UTC
    )


def test_rebalance_recommendation_is_told_from_a_notice(service):
    service.recommend_rebalance()
    metadata = Metadata()
    assert metadata.rebalance_time().endswith("Z")
    assert metadata.spot_notice() is None


def test_one_token_serves_many_reads(service):
    metadata = Metadata()
    for _ in range(3):
        metadata.spot_notice()
    assert [method for method, _, _ in service.requests].count("PUT") == 1
    assert {status for _, _, status in service.requests} == {200, 404}


def test_token_whose_time_is_over_is_renewed(service):
    metadata = Metadata()
    metadata.spot_notice()
    service.forget_tokens()
    service.give_notice()
    assert metadata.spot_notice().action == "terminate"
    assert [status for _, _, status in service.requests] == [200, 404, 401, 200, 200]


def test_read_of_what_any_instance_knows(service):
    assert Metadata().read("placement/region") == "us-east-1"


@pytest.mark.parametrize("fault", [401, 403, 500])
def test_refusing_service_is_said_in_one_line(service, fault):
    metadata = Metadata()
    metadata.spot_notice()
    service.fault = fault
    with pytest.raises(MetadataError, match=str(fault)):
        metadata.spot_notice()


def test_silent_service_is_not_waited_for(service, monkeypatch):
    monkeypatch.setattr("cloud.spot.ANSWER_SECONDS", 0.2)
    service.fault = "hang"
    with pytest.raises(MetadataError, match="does not answer"):
        Metadata().spot_notice()


def test_machine_without_metadata_is_told(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with pytest.raises(MetadataError, match="does not answer"):
        Metadata("http://127.0.0.1:9").spot_notice()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(MetadataError, match="AWS_EC2_METADATA_DISABLED"):
        Metadata("http://127.0.0.1:9").spot_notice()


def test_proxy_is_not_asked(service, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    service.documents[NOTICE] = "{}"
    assert Metadata().spot_notice() is not None
