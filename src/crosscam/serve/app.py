"""The HTTP interface of a gallery.

Everything under ``/api`` needs a bearer token.  What a token may do is its role's: a viewer
searches and looks, an operator adds and names, an admin forgets and reads the audit log.

What somebody saw is in the audit log before the answer goes out, with the ids of all sightings in
it.  What somebody changes is there before it is done, and again with what came of it: a line
without an outcome was cut off by a crash.  People's names are not in addresses, which proxies
write down.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

import crosscam
from crosscam.errors import CrosscamError, DiskError, GalleryError, InputError, NotFoundError
from crosscam.serve.access import Access
from crosscam.serve.guards import BodyLimit, Gate, Mishaps, SafeHeaders
from crosscam.serve.routes import about, admin, gallery, people
from crosscam.serve.service import Service

__all__ = ["make_app"]

_HOUR = 3600.0


def make_app(service: Service) -> FastAPI:
    """The application of a service, which stays the caller's to close."""
    app = FastAPI(
        title="crosscam",
        version=crosscam.__version__,
        summary="Finds the same person again across cameras.",
        lifespan=lambda _: _upkeep(service),
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    access = Access(service)
    for subject in (about, gallery, people, admin):
        app.include_router(subject.make_router(access))

    web = importlib.resources.files("crosscam.serve") / "web"
    app.mount("/static", StaticFiles(directory=str(web)), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response((web / "index.html").read_bytes(), media_type="text/html")

    _answer_errors(app)

    # What is added later stands around what was added before.
    app.add_middleware(Gate, known=lambda secret: service.tokens.find(secret) is not None)
    app.add_middleware(Mishaps)

    @app.middleware("http")
    async def measured(request: Request, call_next: Any) -> Any:
        start = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        action = getattr(route, "name", "other")
        service.requests.labels(action, str(response.status_code)).inc()
        service.seconds.labels(action).observe(time.perf_counter() - start)
        return response

    settings = service.settings
    app.add_middleware(BodyLimit, most=settings.max_upload_bytes, seconds=settings.body_seconds)
    app.add_middleware(SafeHeaders)
    return app


@contextlib.asynccontextmanager
async def _upkeep(service: Service) -> AsyncIterator[None]:
    """Every hour, while the application runs, what is due is deleted, erased and looked at."""
    stop = threading.Event()

    def attempt(failed: str, *parts: Callable[[], Any]) -> None:
        try:
            for part in parts:
                part()
        except Exception:  # whatever it is: tried again in an hour, and not silently
            service.failures.inc()
            logging.getLogger(__name__).exception(failed)

    def keep() -> None:
        while not stop.is_set():
            attempt("the hourly upkeep failed", service.retain, service.look_for_drift)
            attempt("the gallery could not be compacted", lambda: service.compact(stop))
            service.wake.wait(_HOUR)
            service.wake.clear()
        # Once more: what is due at the next start and was not at this end is due since.
        attempt("the last upkeep failed", service.retain)

    worker = threading.Thread(target=keep, name="retention", daemon=True)
    worker.start()
    yield
    stop.set()
    service.wake.set()
    worker.join()  # what is being deleted is deleted, and in the log


def _answer_errors(app: FastAPI) -> None:
    """What is raised on purpose is an answer with its message."""

    def answer(status: int, detail: str) -> JSONResponse:
        return JSONResponse({"detail": detail}, status)

    @app.exception_handler(InputError)
    def bad_input(_: Request, error: InputError) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(NotFoundError)
    def missing(_: Request, error: NotFoundError) -> JSONResponse:
        return answer(404, str(error))

    @app.exception_handler(GalleryError)
    @app.exception_handler(DiskError)
    def broken(_: Request, error: CrosscamError) -> JSONResponse:
        return answer(503, str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # What came is not repeated: it may be a picture, or not even text.
        faults = []
        for entry in error.errors()[:5]:
            if entry["type"] == "json_invalid":
                reason = entry.get("ctx", {}).get("error", "")
                at = entry["loc"][-1]
                faults.append(f"the body is not JSON that can be read: {reason} at character {at}")
                continue
            place = [str(p) for p in entry["loc"] if p not in ("body", "query", "path")]
            faults.append(f"{'.'.join(place) or 'the body'}: {entry['msg']}")
        return answer(422, "; ".join(faults).encode("utf-8", "replace").decode())
