"""Who may ask: a bearer token, or the cookie that the page's login form got for it."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from patchbank.service.config import Config, is_loopback

COOKIE = "patchbank_session"
_GUARDED = ("/v1", "/metrics", "/page/small")  # the page's own files ask `is_signed_in`, to show its login form
_SAFE = ("GET", "HEAD", "OPTIONS")
_WEEK = 7 * 24 * 3600


class Security:
    """The rules of one service. Without a token everything is open, to this machine and its own pages alone."""

    def __init__(self, config: Config):
        self.token, self.host = config.token, config.host

    def accepts(self, token: str) -> bool:
        """Whether this is the token, in a time that does not depend on where they differ."""
        return self.token is not None and _same(token, self.token)

    def is_signed_in(self, connection: HTTPConnection) -> bool:
        """By the header or by the cookie; always, where there is no token."""
        return self.token is None or self._has_bearer(connection.headers) or self._has_cookie(connection)

    def problem(self, connection: HTTPConnection, method: str) -> tuple[int, str] | None:
        """Why a request is refused: status and sentence; None where it may go on."""
        if self._has_bearer(connection.headers):
            return None  # no browser sends this by itself
        if self.token is None:
            if not self._is_own_host(connection.headers):
                return 403, "this service answers only under the name of this machine (localhost or 127.0.0.1)"
        elif not self._has_cookie(connection):
            return 401, "a token is needed: send it as `Authorization: Bearer TOKEN`"
        if connection.headers.get("sec-fetch-site") == "cross-site":
            return 403, "a page of another site may not ask anything here"
        if method not in _SAFE and not self._is_same_origin(connection):
            return 403, "a page of another origin may not change anything here"
        return None

    def sign_in(self, response: Response, *, secure: bool) -> None:
        """Set the cookie, after `accepts`."""
        response.set_cookie(
            COOKIE, self._cookie(), max_age=_WEEK, httponly=True, samesite="strict", secure=secure, path="/"
        )

    def sign_out(self, response: Response) -> None:
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    def _has_bearer(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.accepts(token.strip())

    def _has_cookie(self, connection: HTTPConnection) -> bool:
        return self.token is not None and _same(connection.cookies.get(COOKIE, ""), self._cookie())

    def _cookie(self) -> str:
        """Made from the token, so that a new token ends all sessions; the token cannot be found from it."""
        assert self.token is not None
        return hmac.new(self.token.encode(), b"patchbank page", hashlib.sha256).hexdigest()

    def _is_own_host(self, headers: Headers) -> bool:
        """A page whose name was pointed at this machine (DNS rebinding) still sends its own name."""
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:  # such as an open bracket
            return False
        return host == self.host or is_loopback(host)

    @staticmethod
    def _is_same_origin(connection: HTTPConnection) -> bool:
        """Browsers name the origin of every request that changes something; programs without cookies need not."""
        origin = connection.headers.get("origin")
        if origin is None:
            site = connection.headers.get("sec-fetch-site")
            return site == "same-origin" or (site is None and not connection.cookies)
        return origin.partition("://")[2] == connection.headers.get("host", "")


class Guard:
    """ASGI middleware that turns requests away before any of their body is read."""

    def __init__(self, app: ASGIApp, security: Security):
        self.app, self.security = app, security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not any(path == p or path.startswith(f"{p}/") for p in _GUARDED):
            await self.app(scope, receive, send)
            return
        problem = self.security.problem(HTTPConnection(scope), scope["method"])
        if problem is None:
            await self.app(scope, receive, send)
            return
        status, detail = problem
        headers = {"WWW-Authenticate": 'Bearer realm="patchbank"'} if status == 401 else None
        await JSONResponse({"detail": detail}, status, headers)(scope, receive, send)


def _same(a: str, b: str) -> bool:
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (a, b)]
    return hmac.compare_digest(*digests)
