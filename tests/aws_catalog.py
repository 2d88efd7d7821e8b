"""Catalog of the made AWS: images, prices and quotas, and how its services write them."""

import json
from datetime import UTC, datetime

REGION = "us-east-1"
GPU_IMAGE, OLD_GPU_IMAGE, CPU_IMAGE = "ami-0000000000000d1a", "ami-0000000000000d10", "ami-a1202300"
IMAGES = [
    {
        "ami_id": GPU_IMAGE,
        "name": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261009",
        "description": "Supported EC2 instances: G4dn, G5, G6. NVIDIA driver version: 595.91.05",
        "creation_date": datetime(2026, 10, 9, tzinfo=UTC),
    },
    {
        "ami_id": OLD_GPU_IMAGE,
        "name": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20250101",
        "description": "Supported EC2 instances: G4dn, G5, G6. NVIDIA driver version: 550.127.05",
        "creation_date": datetime(2025, 1, 1, tzinfo=UTC),
    },
    {
        "ami_id": CPU_IMAGE,
        "name": "al2023-ami-2023.9.20261101.0-kernel-6.12-x86_64",
        "description": "Amazon Linux 2023 AMI 2023.9.20261101.0 x86_64 HVM kernel-6.12",
        "creation_date": datetime(2026, 11, 1, tzinfo=UTC),
    },
]
ON_DEMAND = {  # dollars an hour
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g6.xlarge": 0.8048,
    "g6.2xlarge": 0.9776,
    "c7i.2xlarge": 0.357,
    "c7i.4xlarge": 0.714,
    "c7i.8xlarge": 1.428,
    "c7a.2xlarge": 0.41056,
    "c7a.4xlarge": 0.82112,
    "c7a.8xlarge": 1.64224,
    "c6i.2xlarge": 0.34,
    "c6i.4xlarge": 0.68,
    "c6i.8xlarge": 1.36,
}
DISK = 0.08  # dollars a GB and month
SPOT_SHARE = {"a": 0.42, "b": 0.40, "c": 0.45}  # of the price on demand, by the zone's letter
QUOTAS = {  # vCPUs: G and VT on spot and on demand, standard on spot and on demand
    "L-3819A6DF": 64.0,
    "L-DB2E81BA": 64.0,
    "L-34B43A08": 256.0,
    "L-1216C47A": 256.0,
}


def product_line(attributes: dict, dollars: float) -> str:
    """An entry of AWS's price list, as JSON."""
    unit = "GB-Mo" if "volumeApiName" in attributes else "Hrs"
    dimension = {"unit": unit, "pricePerUnit": {"USD": f"{dollars:.10f}"}}
    term = {"effectiveDate": "2026-11-01T00:00:00Z", "priceDimensions": {"T.R.D": dimension}}
    found = {"product": {"attributes": attributes}, "terms": {"OnDemand": {"T.R": term}}}
    return json.dumps(found)


def quota(code: str, value: float) -> dict:
    return {"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": code, "Value": value}
