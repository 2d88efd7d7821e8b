"""Quotas: how many vCPUs an account may have at once, by kind of instance and market."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.aws import call
from cloud.plan import Choice, PlanError
from cloud.prices import ON_DEMAND, SPOT

CODES = {  # by whether the instances have a GPU, and the market
    (False, SPOT): "L-34B43A08",
    (False, ON_DEMAND): "L-1216C47A",
    (True, SPOT): "L-3819A6DF",
    (True, ON_DEMAND): "L-DB2E81BA",
}


@dataclass(frozen=True)
class Quota:
    """What EC2 lets an account run of one kind in one region; running instances count too."""

    code: str
    gpu: bool
    market: str
    vcpus: float

    @property
    def name(self) -> str:
        return f"{'GPU (G, VT)' if self.gpu else 'standard'} {self.market}"

    def allows(self, choice: Choice) -> bool:
        return choice.vcpus <= self.vcpus

    def governs(self, choice: Choice) -> bool:
        return (bool(choice.gpu), choice.market) == (self.gpu, self.market)


def read_quotas(region: str, choices: Sequence[Choice]) -> list[Quota]:
    """Those that these choices fall under. Raises AwsError."""
    kinds = {(bool(choice.gpu), choice.market) for choice in choices}
    return [
        Quota(code, gpu, market, _vcpus(region, code))
        for (gpu, market), code in CODES.items()
        if (gpu, market) in kinds
    ]


def within_quotas(choices: Sequence[Choice], quotas: Sequence[Quota], region: str) -> list[Choice]:
    """The choices that the account may start. Raises PlanError where it may start none."""
    kept = [c for c in choices if all(q.allows(c) for q in quotas if q.governs(c))]
    if not kept:
        first = next(quota for quota in quotas if quota.governs(choices[0]))
        raise PlanError(
            f"the quotas of {region} allow none of these instances: "
            f"{raise_quota(first, choices[0].vcpus, region)}, which takes hours to days, or use "
            "a bucket in another region"
        )
    return kept


def raise_quota(quota: Quota, vcpus: int, region: str) -> str:
    """The command that asks AWS for more."""
    return (
        "`aws service-quotas request-service-quota-increase --service-code ec2 "
        f"--quota-code {quota.code} --desired-value {vcpus} --region {region}`"
    )


def _vcpus(region: str, code: str) -> float:
    answer = call("service-quotas", "get_service_quota", region, ServiceCode="ec2", QuotaCode=code)
    return answer["Quota"]["Value"]
