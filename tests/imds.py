"""Instance metadata: the service that an EC2 instance asks about itself (IMDSv2), on loopback."""

import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROLE = "ad-game-classifier-instance"
TOKEN, TTL = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"
NOTICE = "spot/instance-action"
REBALANCE = "events/recommendations/rebalance"
MOST_TTL_SECONDS = 21_600


class MetadataService:
    """One instance's service. `requests` lists `(method, path, status)`; `fault` may spoil answers.

    As the real one, it wants a token of a PUT for each GET (401 without), has 404 for a notice
    that is not there, and 400 for a token without a time to live. `fault` is None, a status that
    each request gets, or "hang": an answer that takes longer than anybody waits.
    """

    def __init__(
        self,
        *,
        instance_id: str = "i-0123456789abcdef0",
        instance_type: str = "g4dn.xlarge",
        zone: str = "us-east-1a",
        market: str = "spot",
        keys: tuple[str, str, str] = ("test", "test", "test"),
    ):
        self.requests: list[tuple[str, str, int]] = []
        self.fault: int | str | None = None
        self.keys = keys  # access key, secret and session token of the instance's role
        self.documents = {
            "instance-id": instance_id,
            "instance-type": instance_type,
            "instance-life-cycle": market,
            "placement/availability-zone": zone,
            "placement/region": zone[:-1],
            "iam/security-credentials/": ROLE,
        }
        self._tokens: dict[str, float] = {}  # with the time at which they end
        self._closed = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service._answer(self)

            do_PUT = do_GET

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which boto3, the AWS CLI and our own code come here.

        Those that name keys have to be unset beside, or they win over the role.
        """
        return {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url,
            "AWS_EC2_METADATA_DISABLED": "false",
        }

    def give_notice(self, seconds: float = 120.0, action: str = "terminate") -> None:
        """The notice that the instance is taken back in so many seconds."""
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.documents[NOTICE] = json.dumps({"action": action, "time": text})

    def recommend_rebalance(self) -> None:
        text = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.documents[REBALANCE] = json.dumps({"noticeTime": text})

    def forget_tokens(self) -> None:
        """As if their time was over."""
        self._tokens.clear()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.fault == "hang":
            self._closed.wait(60)
        status, text = self._find(request)
        self.requests.append((request.command, request.path, status))
        content = text.encode()
        request.send_response(status)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Content-Length", str(len(content)))
        if request.command == "PUT" and status == 200:
            request.send_header(TTL, request.headers[TTL])
        request.end_headers()
        request.wfile.write(content)

    def _find(self, request: BaseHTTPRequestHandler) -> tuple[int, str]:
        if self.fault is not None:
            return (self.fault if isinstance(self.fault, int) else 503), ""
        if request.command == "PUT":
            ttl = request.headers.get(TTL, "")
            if request.path != "/latest/api/token" or not ttl.isdigit():
                return 400, ""
            if not 1 <= int(ttl) <= MOST_TTL_SECONDS:
                return 400, ""
            token = uuid.uuid4().hex
            self._tokens[token] = time.monotonic() + int(ttl)
            return 200, token
        if self._tokens.get(request.headers.get(TOKEN, ""), 0) < time.monotonic():
            return 401, ""
        path = request.path.removeprefix("/latest/meta-data/")
        if path == f"iam/security-credentials/{ROLE}":
            return 200, self._credentials()
        if request.path == "/latest/dynamic/instance-identity/document":
            zone = self.documents["placement/availability-zone"]
            return 200, json.dumps({"region": zone[:-1], "availabilityZone": zone})
        found = self.documents.get(path)
        return (404, "") if found is None else (200, found)

    def _credentials(self) -> str:
        access_key, secret, token = self.keys
        now = datetime.now(UTC)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "AccessKeyId": access_key,
                "SecretAccessKey": secret,
                "Token": token,
                "Expiration": (now + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
