"""The made AWS: moto over HTTP on loopback, behind a front that fails as told and knows what moto
does not, and whose instances really run.

Two addresses lead to it, the laptop's and the instances', so that the network of one can be cut.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nothing waits for 169.254.169.254
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # three seconds; ours follow

import boto3
from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from moto.scheduler.models import scheduler_backends
from moto.sts.models import sts_backends

from tests.aws_catalog import (
    CPU_IMAGE,
    DISK,
    GPU_IMAGE,
    IMAGES,
    ON_DEMAND,
    QUOTAS,
    REGION,
    SPOT_SHARE,
    product_line,
    quota,
)
from tests.aws_front import Answer, Call, Door, cut, error, json_answer, name_call, refuse, xml
from tests.machines import (
    MARK,
    Clock,
    Hardware,
    Machine,
    keep_watch,
    kill_marked,
    marked_processes,
    wait_for,
)
from tests.s3_server import KEYS
from tests.steady import steady_seconds

LAPTOP, INSTANCE = "laptop", "instance"
SECRET = "what-nobody-but-the-laptop-may-see"


@dataclass
class Fault:
    """What happens to calls of a name: `how` is one of

    `busy` (503), `throttled`, `denied`, `reset` (the connection is cut before anything is done),
    `lost` (it is done, and the answer is lost), `slow` (twelve seconds later), `spoilt` (a byte of
    what is sent is another one on arrival), "" (nothing) or an error's code. `act` is called before
    that, or after it where it is the answer that is lost.
    """

    name: str  # of the call, or "" for all
    how: str
    count: float = 1  # of calls, after so many good ones
    after: int = 0
    side: str = ""
    part: str = ""  # of the detail
    message: str = "and why"
    act: Callable[[], None] | None = None
    met: int = 0  # calls that it was for

    def takes(self, call: Call) -> bool:
        if self.name not in ("", call.name) or self.side not in ("", call.side):
            return False
        if self.part not in call.detail:
            return False
        self.met += 1
        return self.after < self.met <= self.after + self.count


class World:
    """A running AWS with its machines, which end with it. `calls` lists what was asked.

    `capacity(market, instance_type, zone)` returns None, or the code of the error with which EC2
    refuses to start such an instance.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.machines: list[Machine] = []
        self.clock = Clock()
        self.capacity: Callable[[str, str, str], str | None] = lambda market, kind, zone: None
        self.fired: list[str] = []  # names of schedules
        self.environment_of_machines: dict[str, str] = {}
        self.change_machine: Callable[[Machine], None] = lambda machine: None  # before it starts
        self.quotas, self.on_demand = dict(QUOTAS), dict(ON_DEMAND)
        self.unknown_images: set[str] = set()  # parts of the names of parameters that are not there
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[dict, bytes, list]] = {}
        self._schedules: dict[str, tuple[float, dict]] = {}  # time and target by name
        self._numbers = itertools.count()
        self._reset_moto()
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._doors = {side: Door(self._answer, side) for side in (LAPTOP, INSTANCE)}
        self._watch = keep_watch(self.mark)
        self._closed = threading.Event()
        threading.Thread(target=self._fire_schedules, daemon=True).start()

    def close(self) -> None:
        """Ends all that was started here; nothing survives."""
        self._closed.set()
        for machine in self.machines:
            if machine.ended is None:
                machine.vanish()
        for machine in self.machines:
            machine.wait(60)
        kill_marked(self.mark)
        for door in self._doors.values():
            door.close()
        self._watch.stdin.close()
        self._watch.wait()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process is one of the laptop's."""
        return {
            **KEYS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self._doors[LAPTOP].url,
            MARK: f"{self.mark}/laptop",
        }

    def client(self, service: str):
        """A boto3 client that is neither cut off nor listed."""
        keys = {"aws_access_key_id": "tester", "aws_secret_access_key": "tester"}
        return boto3.client(
            service, endpoint_url=self._doors[INSTANCE].url, region_name=REGION, **keys
        )

    # Faults

    def fail(self, name: str, how: str, **which) -> Fault:
        fault = Fault(name, how, **which)
        self.faults.append(fault)
        return fault

    @contextlib.contextmanager
    def laptop_cut_off(self) -> Iterator[None]:
        """Its connections are refused, those it has are cut; the instances notice nothing."""
        self._doors[LAPTOP].shut()
        try:
            yield
        finally:
            self._doors[LAPTOP].reopen()

    @contextlib.contextmanager
    def policies_enforced(self) -> Iterator[None]:
        """IAM decides: who calls needs keys of a user or role of moto's, with a policy."""
        before = settings.INITIAL_NO_AUTH_ACTION_COUNT
        settings.INITIAL_NO_AUTH_ACTION_COUNT = ActionAuthenticatorMixin.request_count = 0
        try:
            yield
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = before

    # What there is

    def new_bucket(self, **objects: bytes) -> str:
        """Its name; with these objects by key."""
        name = f"videos-{next(self._numbers)}-{self.mark}"
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        backend.create_bucket(name, REGION)
        for key, content in objects.items():
            backend.put_object(name, key, content)
        return name

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Contents by key, read past the front."""
        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys
        return {
            key: found[key].value for key in list(found) if key.startswith(prefix) and key in found
        }

    def put(self, bucket: str, key: str, content: bytes) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, content)

    def left(self) -> list[str]:
        """Ids of instances that are still paid for: not terminated, or with a process of theirs."""
        with self._lock:
            known = {
                instance.id
                for reservation in ec2_backends[DEFAULT_ACCOUNT_ID][REGION].all_reservations()
                for instance in reservation.instances
                if instance._state.name != "terminated"
            }
        alive = {machine.id for machine in self.machines if machine.ended is None}
        return sorted(known | alive)

    def volumes_left(self) -> list[str]:
        return list(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].volumes)

    def schedules(self) -> list[str]:
        """Names of those that have not fired and were not deleted."""
        return sorted(self._schedules)

    def pass_minutes(self, minutes: float) -> None:
        """As if so much time went by for all that waits: timers of machines, and schedules."""
        seconds = minutes * self.clock.minute_seconds
        for machine in self.machines:
            machine.timers_seconds -= seconds
        for name, (moment, target) in list(self._schedules.items()):
            self._schedules[name] = (moment - seconds, target)

    def wait_until_empty(self, seconds: float) -> bool:
        return wait_for(lambda: not self.left(), seconds)

    def processes(self):
        return list(marked_processes(self.mark))

    def called(self, name: str, side: str = "") -> list[Call]:
        return [call for call in self.calls if call.name == name and side in ("", call.side)]

    # The front

    def _answer(self, side: str, environ: dict, start_response: Callable) -> Iterable[bytes]:
        # Always read whole: what is left of a request would be taken for the next one.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        call = name_call(side, environ, body)
        if "tester/" in environ.get("HTTP_AUTHORIZATION", ""):
            return self._serve(call, environ).send(start_response)
        if self._doors[side].is_shut:
            cut(environ)
        with self._lock:
            self.calls.append(call)
            fault = next((fault for fault in self.faults if fault.takes(call)), None)
        how = fault.how if fault else ""
        if fault and fault.act and how != "lost":
            fault.act()
        if how == "reset":
            cut(environ)
        if how == "slow":
            self._closed.wait(12)
        if how == "spoilt":
            environ["wsgi.input"] = BytesIO(body[:-1] + bytes(byte ^ 1 for byte in body[-1:]))
        if how not in ("", "slow", "lost", "spoilt"):
            return refuse(start_response, call, how, fault.message)
        answer = self._serve(call, environ)
        if how == "lost":
            if fault.act:
                fault.act()
            cut(environ)
        return answer.send(start_response)

    def _serve(self, call: Call, environ: dict) -> "Answer":
        own = getattr(self, f"_on_{call.name}", None)
        if own is not None:
            answer = own(call, environ)
            if answer is not None:
                return answer
        return self._ask_moto(environ)

    def _ask_moto(self, environ: dict) -> "Answer":
        return Answer.of(self._backend, environ)

    # What moto does not know

    def _on_RunInstances(self, call: Call, environ: dict) -> "Answer | None":
        asked = call.parameters
        if asked.get("DryRun") == "true":
            return None
        market = "spot" if asked.get("InstanceMarketOptions.MarketType") == "spot" else "on-demand"
        kind, zone = asked["InstanceType"], self._zone(asked)
        token = asked.get("ClientToken")
        with self._lock:
            if token in self._tokens:
                known, *answer = self._tokens[token]
                if known != asked:
                    return error(call, "IdempotentParameterMismatch", "other parameters")
                return Answer(*answer)
            code = self.capacity(market, kind, zone)
            if code:
                return error(call, code, f"{kind} in {zone}")
            answer = self._ask_moto(environ)
            found = re.search(rb"<instanceId>(i-[0-9a-f]+)</instanceId>", answer.content)
            if not answer.status.startswith("200") or not found:
                return answer
            self._tokens[token] = (asked, answer.status, answer.content, answer.headers)
        hardware = Hardware(
            instance_id=found[1].decode(),
            instance_type=kind,
            market=market,
            zone=zone,
            has_gpu=kind.startswith(("g", "p")),
            shutdown_behavior=asked.get("InstanceInitiatedShutdownBehavior", "stop"),
        )
        profile = asked.get("IamInstanceProfile.Name") or asked.get("IamInstanceProfile.Arn", "")
        self._boot(hardware, profile.rpartition("/")[2], base64.b64decode(asked["UserData"]))
        return answer

    def _boot(self, hardware: Hardware, profile: str, user_data: bytes) -> Machine:
        machine = Machine(
            hardware,
            self.folder / hardware.instance_id,
            self.clock,
            f"{self.mark}/{hardware.instance_id}",
            lambda: self._role_keys(profile),
            self._copy,
            self._machine_ended,
        )
        self.machines.append(machine)
        environment = {"AWS_ENDPOINT_URL": self._doors[INSTANCE].url}
        machine.make_folders()
        self.change_machine(machine)
        machine.start(user_data, environment | self.environment_of_machines)
        return machine

    def _on_TerminateInstances(self, call: Call, environ: dict) -> "Answer":
        with self._lock:
            answer = self._ask_moto(environ)
            if answer.status.startswith("200"):
                for machine in self.machines:
                    if machine.id in call.parameters.values() and machine.ended is None:
                        self._show_leaving(machine)
                        machine.terminate(f"by the {call.side}")
        return answer

    def _show_leaving(self, machine: Machine) -> None:
        """moto has it gone at once; on AWS it is seen to leave as long as its system stops."""
        state = ec2_backends[DEFAULT_ACCOUNT_ID][REGION].get_instance(machine.id)._state
        state.name, state.code = "shutting-down", 32

    def _on_StopInstances(self, call: Call, environ: dict) -> "Answer":
        with self._lock:
            answer = self._ask_moto(environ)
        for machine in self.machines:
            if machine.id in call.parameters.values() and machine.ended is None:
                machine.terminate("stopped by hand")
        return answer

    def _machine_ended(self, machine: Machine) -> None:
        """What EC2 shows of an instance that is no more."""
        backend = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        stops = machine.hardware.shutdown_behavior == "stop"
        with self._lock:
            state = backend.get_instance(machine.id)._state
            if state.name == "shutting-down":
                state.name, state.code = "terminated", 48
            elif state.name != "running":
                return
            elif stops and not machine.ended.startswith("terminated"):
                backend.stop_instances([machine.id])
            else:
                backend.terminate_instances([machine.id])

    def _on_DescribeSpotPriceHistory(self, call: Call, environ: dict) -> "Answer":
        items = [
            f"<item><instanceType>{kind}</instanceType>"
            "<productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{self.on_demand[kind] * share:.6f}</spotPrice>"
            f"<timestamp>{_now():%Y-%m-%dT%H:%M:%S.000Z}</timestamp>"
            f"<availabilityZone>{REGION}{letter}</availabilityZone></item>"
            for key, kind in call.parameters.items()
            if key.startswith("InstanceType.") and kind in self.on_demand
            for letter, share in SPOT_SHARE.items()
        ]
        content = f"<spotPriceHistorySet>{''.join(items)}</spotPriceHistorySet><nextToken/>"
        return xml("DescribeSpotPriceHistory", content)

    def _on_GetProducts(self, call: Call, environ: dict) -> "Answer":
        wanted = {item["Field"]: item["Value"] for item in call.parameters.get("Filters", [])}
        kind = wanted.get("instanceType")
        dollars = DISK if wanted.get("volumeApiName") == "gp3" else self.on_demand.get(kind)
        products = [] if dollars is None else [product_line(wanted, dollars)]
        return json_answer({"FormatVersion": "aws_v1", "PriceList": products})

    def _on_GetServiceQuota(self, call: Call, environ: dict) -> "Answer":
        code = call.parameters.get("QuotaCode")
        if code not in self.quotas:
            return error(call, "NoSuchResourceException", f"no quota {code}")
        return json_answer({"Quota": quota(code, self.quotas[code])})

    def _on_ListServiceQuotas(self, call: Call, environ: dict) -> "Answer":
        return json_answer({"Quotas": [quota(code, value) for code, value in self.quotas.items()]})

    def _on_GetParameter(self, call: Call, environ: dict) -> "Answer | None":
        name = call.parameters.get("Name", "")
        if not name.startswith("/aws/service/"):
            return None
        image = self._image_of(name)
        if image is None:
            return error(call, "ParameterNotFound", "")
        return json_answer(
            {"Parameter": {"Name": name, "Type": "String", "Value": image, "Version": 1}}
        )

    def _on_GetParameters(self, call: Call, environ: dict) -> "Answer":
        names = call.parameters.get("Names", [])
        found = {name: self._image_of(name) for name in names}
        values = [{"Name": n, "Type": "String", "Value": i} for n, i in found.items() if i]
        missing = [name for name, image in found.items() if image is None]
        return json_answer({"Parameters": values, "InvalidParameters": missing})

    def _on_CreateSchedule(self, call: Call, environ: dict) -> "Answer":
        answer = self._ask_moto(environ)
        if answer.status.startswith("200"):
            moment = call.parameters["ScheduleExpression"].removeprefix("at(").removesuffix(")")
            until = datetime.fromisoformat(moment).replace(tzinfo=UTC) - _now()
            seconds = until.total_seconds() * self.clock.minute_seconds / 60
            name = environ["PATH_INFO"].rpartition("/")[2]
            self._schedules[name] = (steady_seconds() + seconds, call.parameters["Target"])
        return answer

    def _on_DeleteSchedule(self, call: Call, environ: dict) -> "Answer":
        answer = self._ask_moto(environ)
        if answer.status.startswith("200"):
            self._schedules.pop(environ["PATH_INFO"].rpartition("/")[2], None)
        return answer

    def _fire_schedules(self) -> None:
        """Does what EventBridge would, after the time that it was told, in scaled minutes."""
        backend = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        while not self._closed.wait(0.1):
            for name, (moment, target) in list(self._schedules.items()):
                if steady_seconds() < moment:
                    continue
                if not self._schedules.pop(name, None):
                    continue
                self.fired.append(name)
                assert target["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
                for machine in self.machines:
                    named = machine.id in json.loads(target["Input"])["InstanceIds"]
                    if named and machine.ended is None:
                        with self._lock:
                            backend.terminate_instances([machine.id])
                            self._show_leaving(machine)
                        machine.terminate("by its schedule")

    def _copy(self, machine: Machine, folder: Path, words: list[str]) -> None:
        """`aws s3 cp FROM TO`, with --recursive and --include, as the role of a machine."""
        assert words[:2] == ["s3", "cp"], f"not known here: aws {words}"
        places = [word for word in words[2:] if word.startswith("s3://") or "/" in word]
        source, target = places[:2]
        keys = machine.credentials()
        if keys is None:
            raise PermissionError("Unable to locate credentials")
        s3 = boto3.client(
            "s3",
            endpoint_url=self._doors[INSTANCE].url,
            region_name=REGION,
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            aws_session_token=keys[2],
        )
        if target.startswith("s3://"):
            bucket, _, key = target.removeprefix("s3://").partition("/")
            files = {key: folder / source}
            if "--recursive" in words:
                paths = [path for path in (folder / source).rglob("*") if path.is_file()]
                files = {key + p.relative_to(folder / source).as_posix(): p for p in paths}
            for key, path in files.items():
                s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
            return
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        names = [""]
        if "--recursive" in words:
            names = [word for flag, word in itertools.pairwise(words) if flag == "--include"]
            there = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
            names = [name for name in names if prefix + name in {item["Key"] for item in there}]
        for name in names:
            content = s3.get_object(Bucket=bucket, Key=prefix + name)["Body"].read()
            path = folder / target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _image_of(self, parameter: str) -> str | None:
        if any(part in parameter for part in self.unknown_images):
            return None
        if "/deeplearning/ami/x86_64/" in parameter:
            return GPU_IMAGE
        return CPU_IMAGE if "/ami-amazon-linux-latest/al2023-ami-" in parameter else None

    def _zone(self, asked: dict) -> str:
        if zone := asked.get("Placement.AvailabilityZone"):
            return zone
        subnet = asked.get("SubnetId") or asked.get("NetworkInterface.1.SubnetId")
        backend = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        return backend.get_subnet(subnet).availability_zone if subnet else f"{REGION}a"

    def _role_keys(self, profile: str) -> tuple[str, str, str] | None:
        """What the metadata service hands out for an instance profile; None where there is none."""
        if not profile:
            return None
        found = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].get_instance_profile(profile).roles[0]
        role = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].assume_role(
            REGION, "i-session", found.arn, "", 3600, ""
        )
        return role.access_key_id, role.secret_access_key, role.session_token

    def _reset_moto(self) -> None:
        ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        ec2.reset()
        ec2.amis = {
            image["ami_id"]: Ami(
                ec2,
                **image,
                owner_id="898082745236",
                owner_alias="amazon",
                public=True,
                architecture="x86_64",
                root_device_type="ebs",
                virtualization_type="hvm",
                hypervisor="xen",
            )
            for image in IMAGES
        }
        iam_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
        scheduler_backends[DEFAULT_ACCOUNT_ID][REGION].reset()


def _now() -> datetime:
    return datetime.now(UTC)
