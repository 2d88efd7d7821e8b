"""Spot: what the metadata service of an EC2 instance says of its end."""

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ENDPOINT = "http://169.254.169.254"
ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"  # which boto3 and the CLI heed, too
DISABLED_VARIABLE = "AWS_EC2_METADATA_DISABLED"
ANSWER_SECONDS = 2.0
TOKEN_SECONDS = 21_600  # the longest that is given
NOTICE_SECONDS = 120.0  # that EC2 promises, where a notice names no time that can be read


class MetadataError(Exception):
    """The metadata service can't be had; one line."""


@dataclass(frozen=True)
class SpotNotice:
    """EC2 takes the instance back: it will `action` it (terminate, stop, hibernate) at `time`."""

    action: str
    time: datetime

    def describe(self) -> str:
        return f"EC2 takes the spot instance back: {self.action} at {self.time:%H:%M:%S} UTC"


class Metadata:
    """IMDSv2, at the address that AWS_EC2_METADATA_SERVICE_ENDPOINT names or at the usual one."""

    def __init__(self, endpoint: str | None = None):
        self._endpoint = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT).rstrip("/")
        self._token: str | None = None
        # The address is the instance's own: a proxy would answer for another machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(self, path: str) -> str | None:
        """The text at `/latest/meta-data/PATH`; None where there is none (yet).

        Raises MetadataError where nobody answers, as on a machine that is no instance.
        """
        if os.environ.get(DISABLED_VARIABLE, "").lower() == "true":
            raise MetadataError(f"{DISABLED_VARIABLE} is set")
        for renewed in (False, True):
            if self._token is None or renewed:
                wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self._token = self._ask("PUT", "api/token", wanted)
            try:
                return self._ask(
                    "GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}
                )
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or renewed:  # 401: the token's time is over
                    raise MetadataError(f"{self._endpoint} answers {error.code}") from error
        raise AssertionError("unreachable")

    def spot_notice(self) -> SpotNotice | None:
        """The notice that this spot instance is taken back, or None. Raises MetadataError."""
        text = self.read("spot/instance-action")
        return None if text is None else parse_notice(text)

    def rebalance_time(self) -> str | None:
        """When EC2 said that the risk of an interruption has grown, or None."""
        text = self.read("events/recommendations/rebalance")
        if text is None:
            return None
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(text)["noticeTime"])
        return "an unknown time"

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        """Raises HTTPError for a GET that is refused, MetadataError for what else goes wrong."""
        url = f"{self._endpoint}/latest/{path}"
        try:
            request = urllib.request.Request(url, method=method, headers=headers)
            with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return answer.read().decode("utf-8", errors="replace")
        except urllib.error.HTTPError as error:
            error.close()
            if method == "GET":
                raise
            raise MetadataError(f"{self._endpoint} gives no token ({error.code})") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise MetadataError(f"{self._endpoint} does not answer ({error})") from error


def parse_notice(text: str) -> SpotNotice:
    """A notice that can't be read is one all the same, of two minutes from now."""
    try:
        found = json.loads(text)
        moment = datetime.fromisoformat(found["time"])
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return SpotNotice(str(found["action"]), moment)
    except (ValueError, TypeError, KeyError):
        return SpotNotice("terminate", datetime.now(UTC) + timedelta(seconds=NOTICE_SECONDS))
