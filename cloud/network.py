"""Network: where instances are started: the default VPC, and a security group with no way in."""

from cloud.aws import AwsError, CloudError, call, pages
from cloud.permissions import PROJECT

GROUP = PROJECT  # name of the security group


def find_network(region: str) -> tuple[str, dict[str, str]]:
    """The default VPC, and a subnet of it by zone. Raises CloudError where there is none."""
    default = [{"Name": "is-default", "Values": ["true"]}]
    vpcs = pages("ec2", "describe_vpcs", region, "Vpcs", Filters=default)
    if not vpcs:
        raise CloudError(
            f"{region} has no default VPC: make one with "
            f"`aws ec2 create-default-vpc --region {region}`, it costs nothing"
        )
    vpc = vpcs[0]["VpcId"]
    found = pages(
        "ec2",
        "describe_subnets",
        region,
        "Subnets",
        Filters=[
            {"Name": "vpc-id", "Values": [vpc]},
            {"Name": "default-for-az", "Values": ["true"]},
        ],
    )
    subnets = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in found}
    if not subnets:
        raise CloudError(
            f"the default VPC {vpc} has no default subnet: make one with `aws ec2 "
            f"create-default-subnet --region {region} --availability-zone {region}a`"
        )
    return vpc, dict(sorted(subnets.items()))


def find_group(region: str, vpc: str) -> str | None:
    """The security group of ours, or None. Raises CloudError where it lets somebody in."""
    filters = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = pages("ec2", "describe_security_groups", region, "SecurityGroups", Filters=filters)
    if not groups:
        return None
    if groups[0]["IpPermissions"]:
        raise CloudError(
            f"the security group {GROUP} ({groups[0]['GroupId']}) has inbound rules, and nobody "
            "needs a way in: remove them, for example in the EC2 console"
        )
    return groups[0]["GroupId"]


def ensure_group(region: str, vpc: str) -> str:
    """The security group of ours, made where there is none; it costs nothing and stays."""
    group = find_group(region, vpc)
    if group:
        return group
    try:
        return call(
            "ec2",
            "create_security_group",
            region,
            GroupName=GROUP,
            Description="Ad/game classifier: no way in",
            VpcId=vpc,
            TagSpecifications=[
                {
                    "ResourceType": "security-group",
                    "Tags": [{"Key": "Project", "Value": PROJECT}],
                }
            ],
        )["GroupId"]
    except AwsError as error:
        if error.code != "InvalidGroup.Duplicate":  # another launcher was faster
            raise
    return find_group(region, vpc)
