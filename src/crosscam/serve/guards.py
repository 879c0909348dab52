"""What stands between a client and the application: size, time and headers.

Plain ASGI, so that nothing is buffered before it is judged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from crosscam.errors import CrosscamError
from crosscam.wording import either

__all__ = ["BodyLimit", "Gate", "Mishaps", "SafeHeaders", "hasty"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Sent with every answer: no script but our own, no framing, no guessing of types."""


class Gate:
    """Turns away whoever has no valid token, before anything that they send is read.

    ``known`` tells whether a token is valid.  What it may do is judged later.
    """

    def __init__(self, app: App, known: Callable[[str], bool]) -> None:
        self.app, self.known = app, known

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        guarded = path == "/metrics" or (path.startswith("/api/") and path != "/api/openapi.json")
        if scope["type"] == "http" and guarded:
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            kind, _, secret = given.partition(" ")
            try:
                if kind.lower() != "bearer" or not self.known(secret.strip()):
                    await _refuse(send, 401, "a valid bearer token is needed.",
                                  (b"www-authenticate", b"Bearer"))  # fmt: skip
                    return
            except CrosscamError as error:  # the file of tokens cannot be read
                await _refuse(send, 503, str(error))
                return
        await self.app(scope, receive, send)


class Mishaps:
    """Answers 500 where something happened that nobody thought of.

    The client gets a number, and the log of the process that number with what happened.  Inside of
    whatever counts answers and gives them headers, unlike the handler of the framework.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise  # the connection is cut, which says that the answer is not whole
            number = secrets.token_hex(6)
            logging.getLogger(__name__).exception(
                "request %s failed: %s %s", number, scope["method"], ascii(scope["path"])
            )
            await _refuse(
                send, 500, "something went wrong in the service. Whoever runs it finds what in "
                f"its log, under {number}."
            )  # fmt: skip


class BodyLimit:
    """Turns away requests whose body is too large or comes too slowly.

    A body is counted as it arrives, whatever its headers claim, and must be complete in
    ``seconds``.  Memory: what the application keeps of ``most`` bytes.
    """

    def __init__(self, app: App, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        claimed = dict(scope["headers"]).get(b"content-length", b"0")
        if not claimed.isdigit() or int(claimed) > self.most:
            await _refuse(send, 413, f"a request may have {self.most:,} bytes.")
            return
        ends = asyncio.get_running_loop().time() + self.seconds
        got, done, started = 0, False, False
        fault: tuple[int, str] | None = None

        async def counted() -> Message:
            nonlocal got, done, fault
            if done:  # what comes now is the end of the connection
                return await receive()
            left = ends - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except asyncio.TimeoutError:
                fault = (
                    408,
                    f"the request did not arrive within {self.seconds:g} "
                    f"{either(self.seconds, 'second', 'seconds')}.",
                )
                return {"type": "http.disconnect"}
            got += len(message.get("body", b""))
            done = not message.get("more_body", False)
            if got > self.most:
                fault = (413, f"a request may have {self.most:,} bytes.")
                return {"type": "http.disconnect"}
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if fault is not None and not started:
                return  # the application answers a client that is gone; ours is the answer
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if fault is None:
                raise
        if fault is not None and not started:
            await _refuse(send, *fault)


class SafeHeaders:
    """Adds ``HEADERS`` to every answer, and forbids keeping copies of what is not public."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        if not scope["path"].startswith("/static/"):
            own.append((b"cache-control", b"no-store"))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in own}
                kept = [h for h in message.get("headers", []) if h[0].lower() not in names]
                message["headers"] = [*kept, *own]
            await send(message)

        await self.app(scope, receive, with_headers)


def hasty(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, but a connection on which no request begins in time is closed.

    Otherwise a few hundred clients that send nothing, or half of a header, shut out all others.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Hasty(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._late is not None:
                self._late.cancel()
            self._late = self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None or self.cycle.response_complete:  # else a request is under way
                self.transport.close()

    return Hasty


async def _refuse(send: Send, status: int, detail: str, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
