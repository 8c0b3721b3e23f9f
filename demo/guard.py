"""What stands before Gradio: who may fetch which file, and what may be asked at all.

Gradio serves every file of its temporary folder to whoever knows the path, and takes every such
path as an upload. Here a browser gets the files only that the server has named to this very
browser, known by a cookie: its uploads and its results. Whatever else the routes of Gradio can do
is closed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from .visitors import RefusedRequestError, Visitors

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "weav3r_visitor"

_API = "/gradio_api"
_FILE, _UPLOAD, _HEARTBEAT = f"{_API}/file=", f"{_API}/upload", f"{_API}/heartbeat/"
_OPEN_ROUTES = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|login_check|user|token|logout)/?"
    r"|/(assets|static|svelte)/.+|/pwa_icon(/\d+)?"
    rf"|{_API}/(info|startup-events|app_id|theme\.css|login_check|user|token|queue/status)/?"
    rf"|{_API}/(queue/data|upload_progress|heartbeat/\w+|call/\w+/\w+)"
)
_POST_ROUTES = re.compile(rf"/login/?|{_API}/(queue/join|cancel|reset|(call|run|api)/\w+)/?")
_MAX_JSON = 2**20
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    ),
]
_READ_KINDS = (b"application/json", b"text/html", b"text/event-stream")


class Guard:
    """ASGI middleware.

    Args:
        app: what it stands before.
        visitors: who may have what.
    """

    def __init__(self, app: App, visitors: Visitors) -> None:
        self.app, self.visitors = app, visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let Gradio do it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return  # the page uses no web sockets
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        cookie = _cookie(headers.get("cookie", ""))
        name = self.visitors.name(cookie)
        reply = _Reply(send, self.visitors, name, name != cookie)
        try:
            self._check_address(scope["path"], headers)
            if scope["path"].rstrip("/") == _UPLOAD and scope["method"] == "POST":
                await self._upload(scope, headers, receive, reply)
                return
            receive = await self._check(scope, name, receive)
        except RefusedRequestError as error:
            await reply.plain(error.status, str(error))
            return
        await self.app(scope, receive, reply.send)

    def _check_address(self, path: str, headers: dict[str, str]) -> None:
        host, hosts = headers.get("host", ""), self.visitors.limits.hosts
        host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if hosts is not None and host.lower() not in hosts:
            raise RefusedRequestError(403, "this address is not answered to")
        if "\0" in path or "\\" in path or ".." in path.split("/"):
            raise RefusedRequestError(404, "not found")

    async def _upload(
        self, scope: Scope, headers: dict[str, str], receive: Receive, reply: _Reply
    ) -> None:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise RefusedRequestError(411, "say how long the upload is")
        size = int(length)
        await asyncio.to_thread(self.visitors.begin_upload, reply.name, size)
        reply.uploads = True
        try:
            await self.app(scope, receive, reply.send)
        finally:
            self.visitors.end_upload(reply.name, size)

    async def _check(self, scope: Scope, name: str, receive: Receive) -> Receive:
        """Refuse a request, or give what its body is to be read with."""
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD") and path.startswith(_FILE):
            if not self.visitors.may_have(name, path[len(_FILE) :]):
                raise RefusedRequestError(403, "this file belongs to someone else, or is gone")
            return receive
        if method in ("GET", "HEAD") and _OPEN_ROUTES.fullmatch(path):
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            for session in query.get("session_hash", []):
                self.visitors.claim(name, session)
            if path.startswith(_HEARTBEAT):
                self.visitors.claim(name, path[len(_HEARTBEAT) :])
            return receive
        if method != "POST" or not _POST_ROUTES.fullmatch(path):
            raise RefusedRequestError(404, "not found")
        body = await _read(receive)
        if not path.startswith("/login"):
            try:
                value = json.loads(body)
            except (ValueError, RecursionError):
                raise RefusedRequestError(400, "the request is not JSON") from None
            self.visitors.check(name, value)
            if isinstance(value, dict) and value.get("session_hash"):
                self.visitors.claim(name, str(value["session_hash"]))
        return _again(body, receive)


class _Reply:
    """Passes a reply on, reads which files it names, and adds headers."""

    def __init__(self, send: Send, visitors: Visitors, name: str, is_new: bool) -> None:
        self._send, self._visitors, self.name, self._is_new = send, visitors, name, is_new
        self.uploads = False
        self._reads = False
        self._rest = b""

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            kind = dict(headers).get(b"content-type", b"")
            self._reads = message["status"] == 200 and kind.startswith(_READ_KINDS)
            message = {**message, "headers": headers + self._headers()}
        elif message["type"] == "http.response.body" and self._reads:
            # A name may be cut in two by the end of a message.
            data, more = self._rest + message.get("body", b""), message.get("more_body", False)
            text = data.decode("utf-8", "replace")
            if not self.uploads:
                self._visitors.tell(self.name, text)
            elif not more:
                self._visitors.tell_uploads(self.name, text)
            self._rest = (data if self.uploads else data[-2048:]) if more else b""
        await self._send(message)

    async def plain(self, status: int, text: str) -> None:
        """Answer with a line of text."""
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        start = {"type": "http.response.start", "status": status}
        await self._send({**start, "headers": headers + self._headers()})
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self) -> list[tuple[bytes, bytes]]:
        cookie = f"{COOKIE}={self.name}; Path=/; HttpOnly; SameSite=Lax".encode()
        return [*_HEADERS, *([(b"set-cookie", cookie)] if self._is_new else [])]


async def _read(receive: Receive) -> bytes:
    """A small body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedRequestError(400, "the request was broken off")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > _MAX_JSON:
            raise RefusedRequestError(413, "the request is too long")
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Let a body that was read be read again."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value
