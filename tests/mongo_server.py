"""MongoDB server: the wire protocol on loopback over mongomock, with passwords and faults."""

import base64
import hashlib
import hmac
import itertools
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable

import bson
import mongomock

from tests.ports import keep_port

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HEADER = struct.Struct("<iiii")  # length, request, response to, operation
ITERATIONS = 4096
OPEN_TO_ALL = {"hello", "ismaster", "isMaster", "ping", "buildInfo", "saslStart", "saslContinue"}
Fault = Callable[[str], str | None]


class MongoServer:
    """A server that real clients talk to; what it holds survives `stop` and `start`.

    With `users` ({name: password}) clients log in by SCRAM-SHA-256. `fault(command)` may return
    `lose` (the connection ends before the command is done), `lose answer` (after), or `slow`.
    """

    def __init__(self, users: dict[str, str] | None = None):
        self.users = users or {}
        self.fault: Fault = lambda command: None
        self.commands: list[str] = []
        self.data = mongomock.MongoClient()
        self.lock = threading.Lock()  # mongomock has none
        self._place = keep_port()
        self._port = self._place.getsockname()[1]
        self._server: socketserver.ThreadingTCPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        """Without a database; whoever asks has patience with a busy machine."""
        return f"mongodb://127.0.0.1:{self._port}/?serverSelectionTimeoutMS=60000"

    @property
    def hasty_url(self) -> str:
        """The same for when the server is stopped: a test is not to last."""
        return self.url.replace("=60000", "=1500")

    def start(self) -> None:
        self._server = _Listener(("127.0.0.1", self._port), _Connection)
        self._server.owner, self._server.sockets = self, set()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Ends all connections and takes no new ones, as a crash would."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.sockets):
            connection.close()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


class _Connection(socketserver.BaseRequestHandler):
    """One client: its login and its cursors."""

    def setup(self) -> None:
        self.owner: MongoServer = self.server.owner
        self.server.sockets.add(self.request)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_known = not self.owner.users
        self.login: _Login | None = None
        self.cursors: dict[int, list[dict]] = {}
        self.numbers = itertools.count(1)

    def handle(self) -> None:
        try:
            while True:
                self._answer_one()
        except (OSError, EOFError):
            return  # the client left, or we are stopped

    def finish(self) -> None:
        self.server.sockets.discard(self.request)

    def _answer_one(self) -> None:
        length, request, _, operation = HEADER.unpack(self._read(HEADER.size))
        body = self._read(length - HEADER.size)
        command = _read_query(body) if operation == OP_QUERY else _read_message(body)
        name = next(iter(command))
        self.owner.commands.append(name)
        fault = self.owner.fault(name)
        if fault == "slow":
            time.sleep(3)
        if fault == "lose":
            raise EOFError
        with self.owner.lock:
            answer = self._answer(name, command)
        if fault == "lose answer":
            raise EOFError
        data = bson.encode(answer)
        if operation == OP_QUERY:
            data, kind = struct.pack("<iqii", 8, 0, 0, 1) + data, OP_REPLY
        else:
            data, kind = struct.pack("<ib", 0, 0) + data, OP_MSG
        self.request.sendall(HEADER.pack(HEADER.size + len(data), 0, request, kind) + data)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.request.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _answer(self, name: str, command: dict) -> dict:
        if not self.is_known and name not in OPEN_TO_ALL:
            return _failure(13, "Unauthorized", f"command {name} requires authentication")
        answer = getattr(self, f"_do_{name.lower()}", None)
        if answer is None:
            return _failure(59, "CommandNotFound", f"no such command: '{name}'")
        return {"ok": 1.0, **answer(command)}

    def _do_hello(self, command: dict) -> dict:
        answer = {
            "isWritablePrimary": True,
            "ismaster": True,
            "helloOk": True,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48 << 20,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
        }
        if "saslSupportedMechs" in command:
            answer["saslSupportedMechs"] = ["SCRAM-SHA-256"]
        return answer

    _do_ismaster = _do_hello

    def _do_ping(self, command: dict) -> dict:
        return {}

    def _do_saslstart(self, command: dict) -> dict:
        self.login = _Login(self.owner.users)
        return {"conversationId": 1, "done": False, "payload": self.login.first(command["payload"])}

    def _do_saslcontinue(self, command: dict) -> dict:
        payload = self.login.final(command["payload"])
        if payload is None:
            return _failure(18, "AuthenticationFailed", "Authentication failed.")
        self.is_known = True
        return {"conversationId": 1, "done": True, "payload": payload}

    def _do_createindexes(self, command: dict) -> dict:
        for index in command["indexes"]:
            self._collection(command).create_index(list(index["key"].items()), name=index["name"])
        return {}

    def _do_update(self, command: dict) -> dict:
        matched, upserted = 0, []
        for place, update in enumerate(command["updates"]):
            done = self._collection(command).replace_one(
                update["q"], update["u"], upsert=update.get("upsert", False)
            )
            matched += done.matched_count
            if done.upserted_id is not None:
                upserted.append({"index": place, "_id": done.upserted_id})
        more = {"upserted": upserted} if upserted else {}
        return {"n": matched + len(upserted), "nModified": matched, **more}

    def _do_delete(self, command: dict) -> dict:
        collection = self._collection(command)
        return {"n": sum(collection.delete_many(d["q"]).deleted_count for d in command["deletes"])}

    def _do_find(self, command: dict) -> dict:
        found = self._collection(command).find(command["filter"], command.get("projection"))
        if "sort" in command:
            found = found.sort(list(command["sort"].items()))
        return self._first_batch(command, list(found.limit(command.get("limit", 0))), command)

    def _do_aggregate(self, command: dict) -> dict:
        found = list(self._collection(command).aggregate(command["pipeline"]))
        return self._first_batch(command, found, command["cursor"])

    def _do_getmore(self, command: dict) -> dict:
        rest = self.cursors.pop(command["getMore"])
        batch, number = self._batch(rest, command)
        namespace = f"{command['$db']}.{command['collection']}"
        return {"cursor": {"nextBatch": batch, "id": bson.Int64(number), "ns": namespace}}

    def _do_killcursors(self, command: dict) -> dict:
        for number in command["cursors"]:
            self.cursors.pop(number, None)
        return {}

    def _do_dropdatabase(self, command: dict) -> dict:
        self.owner.data.drop_database(command["$db"])
        return {}

    def _first_batch(self, command: dict, found: list[dict], wanted: dict) -> dict:
        batch, number = self._batch(found, wanted)
        namespace = f"{command['$db']}.{next(iter(command.values()))}"
        return {"cursor": {"firstBatch": batch, "id": bson.Int64(number), "ns": namespace}}

    def _batch(self, found: list[dict], wanted: dict) -> tuple[list[dict], int]:
        size = wanted.get("batchSize", 101)
        if len(found) <= size:
            return found, 0
        number = next(self.numbers)
        self.cursors[number] = found[size:]
        return found[:size], number

    def _collection(self, command: dict):
        return self.owner.data[command["$db"]][next(iter(command.values()))]


class _Login:
    """SCRAM-SHA-256 (RFC 7677), the server's side."""

    def __init__(self, users: dict[str, str]):
        self._users = users

    def first(self, payload: bytes) -> bytes:
        self._bare = payload.decode().removeprefix("n,,")
        parts = _parts(self._bare)
        self._password = self._users.get(parts["n"].replace("=2C", ",").replace("=3D", "="))
        self._nonce = parts["r"] + base64.b64encode(os.urandom(18)).decode()
        self._salt = os.urandom(16)
        salt = base64.b64encode(self._salt).decode()
        self._first = f"r={self._nonce},s={salt},i={ITERATIONS}"
        return self._first.encode()

    def final(self, payload: bytes) -> bytes | None:
        """None where the password is wrong."""
        without_proof, _, proof = payload.decode().rpartition(",p=")
        if self._password is None or _parts(without_proof)["r"] != self._nonce:
            return None
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), self._salt, ITERATIONS)
        signed = f"{self._bare},{self._first},{without_proof}".encode()
        stored = hashlib.sha256(_sign(salted, b"Client Key")).digest()
        signature = _sign(stored, signed)
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if hashlib.sha256(key).digest() != stored:
            return None
        answer = _sign(_sign(salted, b"Server Key"), signed)
        return b"v=" + base64.b64encode(answer)


def _sign(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _parts(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(","))


def _failure(code: int, name: str, message: str) -> dict:
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": message}


def _read_query(body: bytes) -> dict:
    """The command of an OP_QUERY, with which clients say hello."""
    start = body.index(b"\0", 4) + 1 + 8  # behind flags, namespace, skip and return
    return bson.decode(body[start:])


def _read_message(body: bytes) -> dict:
    """The command of an OP_MSG, with the documents that follow it."""
    command, place = {}, 4  # behind the flags
    sequences: dict[str, list[dict]] = {}
    while place < len(body):
        kind, place = body[place], place + 1
        (size,) = struct.unpack_from("<i", body, place)
        if kind == 0:
            command = bson.decode(body[place : place + size])
        else:
            name, _, documents = body[place + 4 : place + size].partition(b"\0")
            sequences[name.decode()] = bson.decode_all(documents)
        place += size
    return {**command, **sequences}
