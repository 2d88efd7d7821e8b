"""Images: what instances start from, known to have a driver that the locked torch can use."""

import re
from dataclasses import dataclass

from cloud.aws import AwsError, CloudError, call, pages

DRIVER = 580  # oldest NVIDIA driver for CUDA 13, which torch is built for
# Release notes of AWS: images of 2025-10-31 still came with 580.95, 2026-03 with 580.126, 2026-04
# with 595.58; those of summer 2025 with 570. Earlier ones than this date are not taken.
FIRST_DATE = "20251101"
OWNER = "amazon"

GPU_PARAMETERS = (  # by AWS's rule for names; the first that is there is taken
    "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
    "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-ubuntu-22.04/latest/ami-id",
)
GPU_PATTERNS = (
    "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) *",
    "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *",
)
CPU_PARAMETERS = ("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",)
CPU_PATTERNS = ("al2023-ami-2023.*-kernel-*-{arch}",)


@dataclass(frozen=True)
class Image:
    image_id: str
    name: str
    root_device: str  # for example "/dev/sda1"
    root_gb: int  # its disk is no smaller
    source: str  # how it was found


def find_image(region: str, *, gpu: bool, arch: str = "x86_64") -> Image:
    """The newest image for instances with or without a GPU, by SSM parameter, else by its name.

    Raises CloudError where there is none, or none whose driver is known to be new enough.
    """
    parameters, patterns = (GPU_PARAMETERS, GPU_PATTERNS) if gpu else (CPU_PARAMETERS, CPU_PATTERNS)
    refused = []
    for name in parameters:
        image = _by_parameter(region, name.format(arch=arch))
        if image and (not gpu or _has_driver(image)):
            return _describe(image, "SSM parameter")
        if image:
            refused.append(image["Name"])
    for pattern in patterns:
        for image in _by_name(region, pattern.format(arch=arch), arch):
            if not gpu or _has_driver(image):
                return _describe(image, "name")
            refused.append(image["Name"])
    if refused:
        raise CloudError(
            f"the newest GPU image in {region} is {refused[0]!r}, from before NVIDIA driver "
            f"{DRIVER}, which this torch needs: choose another --region, or --instance c7i.2xlarge"
        )
    raise CloudError(
        f"{region} has no image {patterns[0].format(arch=arch)!r}: choose another --region"
    )


def _by_parameter(region: str, name: str) -> dict | None:
    """The image that an SSM parameter names, or None where there is no such parameter."""
    try:
        image_id = call("ssm", "get_parameter", region, Name=name)["Parameter"]["Value"]
        found = call("ec2", "describe_images", region, ImageIds=[image_id])["Images"]
    except AwsError as error:
        if error.code in ("ParameterNotFound", "InvalidAMIID.NotFound"):
            return None
        raise
    return found[0] if found else None


def _by_name(region: str, pattern: str, arch: str) -> list[dict]:
    """Images of Amazon's, the newest first."""
    filters = {"name": pattern, "state": "available", "architecture": arch}
    found = pages(
        "ec2",
        "describe_images",
        region,
        "Images",
        Owners=[OWNER],
        Filters=[{"Name": name, "Values": [value]} for name, value in filters.items()],
    )
    return sorted(found, key=lambda image: image["CreationDate"], reverse=True)


def _has_driver(image: dict) -> bool:
    """By the driver in its description where that names one, else by the date in its name."""
    stated = re.search(r"driver\D{0,20}(\d{3})\.\d", image.get("Description", ""), re.IGNORECASE)
    if stated:
        return int(stated[1]) >= DRIVER
    date = re.search(r"\b(20\d{6})\b", image["Name"])
    return date is not None and date[1] >= FIRST_DATE


def _describe(image: dict, source: str) -> Image:
    root = image.get("RootDeviceName", "/dev/xvda")
    disks = image.get("BlockDeviceMappings", [])
    sizes = [
        disk.get("Ebs", {}).get("VolumeSize", 0) for disk in disks if disk["DeviceName"] == root
    ]
    return Image(image["ImageId"], image.get("Name", "?"), root, max(sizes, default=0), source)
