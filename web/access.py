"""Access: who is answered at all, and what every answer says about safety.

A page on 127.0.0.1 is reachable by every web site that the same browser shows. So a request must
name this host (DNS rebinding), and must not come from another site's page. With a token, it must
carry that too: as `Authorization: Bearer`, or as the cookie that opening `/?token=...` once leaves.
"""

import hashlib
import hmac
import re
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.errors import answer
from web.settings import Settings

COOKIE = "ad_game_page"
COOKIE_SECONDS = 30 * 24 * 3600
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_BODIES = ("/api/uploads", "/api/classify")  # have a bound of their own, and go to disk
MAX_BODY_BYTES = 4 << 20  # of all others, which are held in memory
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Access:
    """ASGI middleware in front of everything; what it refuses goes no further."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self._app = app
        self._token = settings.token and settings.token.encode()
        self._cookie = self._token and hmac.new(self._token, b"page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if scope["path"] not in OPEN_BODIES:
            receive = _bounded(receive)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """The answer to a request that is not let in, or the way in; None lets it pass."""
        host = HOST.fullmatch(headers.get("host", ""))
        # With a token another name does no harm: who rebinds it has no cookie of this one.
        if host is None or (self._token is None and host["name"].lower() not in LOOPBACK):
            return answer(400, "open the page as http://127.0.0.1 or http://localhost", "host")
        if self._token is not None:
            given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")
            if given is not None and scope["method"] in SAFE_METHODS and self._is_token(given):
                return self._let_in(scope)
            if not self._is_known(headers):
                return answer(401, "this page wants its token: open it once with ?token=TOKEN")
        if not _is_own_page(scope, headers):
            return answer(403, "another site's page may not ask for this", "origin")
        if scope["path"] not in OPEN_BODIES and said_length(headers) > MAX_BODY_BYTES:
            return answer(413, _too_large())
        return None

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        cookies = dict(
            part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";")
        )
        given = cookies.get(COOKIE, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._cookie.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _let_in(self, scope: Scope) -> ASGIApp:
        """Leaves the cookie, and goes on to the same address without the token."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # One slash at the beginning: //host/ would lead to another server.
        path = "/" + scope["raw_path"].decode("latin-1").partition("?")[0].lstrip("/\\")
        response = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        response.set_cookie(
            COOKIE,
            self._cookie,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return response


def said_length(headers: Headers) -> int:
    """How many bytes the body is said to have; 0 where nothing is said, or no number."""
    length = headers.get("content-length", "")
    return int(length[:18]) if length.isdecimal() else 0  # more digits are too many all the same


def _is_own_page(scope: Scope, headers: Headers) -> bool:
    """Whether a request comes from this page, from the address bar, or from no browser."""
    site = headers.get("sec-fetch-site", "none")
    is_safe = scope["method"] in SAFE_METHODS
    if site not in ("same-origin", "none"):
        return is_safe and headers.get("sec-fetch-mode") == "navigate"  # a link elsewhere to here
    origin = headers.get("origin")
    return is_safe or origin is None or origin.partition("://")[2] == headers["host"]


def _bounded(receive: Receive) -> Receive:
    """Receives no more than MAX_BODY_BYTES, whatever the length was said to be."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, _too_large())
        return message

    return bounded


def _too_large() -> str:
    return f"the request is longer than {MAX_BODY_BYTES >> 20} MB: send less at a time"


def _with_headers(send: Send) -> Send:
    """Adds HEADERS, unless the answer has its own."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
