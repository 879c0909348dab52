"""The HTTP interface of a gallery.

Everything under ``/api`` needs a bearer token.  What a token may do is its role's: a viewer
searches and looks, an operator adds and names, an admin forgets and reads the audit log.

What somebody saw is in the audit log before the answer goes out, with the ids of all sightings in
it.  What somebody changes is there before it is done, and again with what came of it: a line
without an outcome was cut off by a crash.  People's names are not in addresses, which proxies
write down.

FastAPI reads the annotations of the functions below when the application is made, so this module
does not postpone them.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import importlib.resources
import inspect
import io
import itertools
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Body, Depends, FastAPI, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

import crosscam
from crosscam.decision import Calibration, Drift, judge
from crosscam.decision.calibration import RATES
from crosscam.errors import (
    CrosscamError,
    DiskError,
    GalleryError,
    ImageError,
    InputError,
    NotFoundError,
)
from crosscam.files import private_folder, write_atomically
from crosscam.gallery import Found, Gallery, Item, Sighting, Where, parse_time
from crosscam.gallery.pictures import picture_name
from crosscam.gallery.sighting import camera_name, clean_name
from crosscam.image import MAX_PIXELS, decode
from crosscam.serve.audit import AuditLog
from crosscam.serve.guards import BodyLimit, Gate, Mishaps, SafeHeaders
from crosscam.serve.limits import RateLimit
from crosscam.serve.retention import DAY, Kept
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role, Token, Tokens
from crosscam.wording import counted

__all__ = ["Service", "make_app"]

_HOUR = 3600.0
_DRIFT_SAMPLE, _DRIFT_LEAST = 2000, 200  # sightings drawn, pairs needed
_PICTURE_COST = 0.05  # of a request: a page of results has dozens of pictures
_WAIT = 5.0  # seconds that a search waits for its turn before it is turned away
_LARGEST = 1024  # pixels of the longer side of a picture that is shown
_REMEMBERED = 200_000  # sightings that lines of the log named: some 40 MB
_SALT = 32  # bytes
_FRESH = 20_000  # sightings not in the index from which on it is built anew


# No control characters: they would break lines of the log.  Names of people and cameras are tidied
# besides, where they are used.
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]
# One that is there, whatever an earlier version or another program let it be called.
Camera = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Reason = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{36}$")]
Ids = Annotated[list[Id], Field(min_length=1, max_length=1000)]


class Service:
    """A gallery with all that guards it.

    Args:
        gallery: open, with its encoder.
        state: folder of tokens and audit log.
        settings: how it behaves.
        calibration: what scores mean; without one, no probability and no decision is given.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        gallery: Gallery,
        state: Path,
        settings: ServiceSettings = ServiceSettings(),  # noqa: B008 frozen
        calibration: Calibration | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gallery, self.state, self.settings = gallery, state, settings
        self.calibration, self.clock = calibration, clock
        private_folder(state)
        self.tokens, self.salt = Tokens(state / "tokens.json", clock), _salt(state / "salt")
        self.audit = AuditLog(state / "audit.jsonl", clock)
        self.limit = RateLimit(settings.per_minute, settings.burst)
        self.turns = threading.BoundedSemaphore(settings.searches)
        self.shows = threading.BoundedSemaphore(settings.searches)
        self.wake, self.soon, self._compacted = threading.Event(), False, 0.0
        self._shown: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._showing, self._retaining = threading.Lock(), threading.Lock()
        self.drift: Drift | None = None
        self.metrics = CollectorRegistry()
        self.requests = Counter(
            "crosscam_requests", "Requests", ["action", "status"], registry=self.metrics
        )
        self.seconds = Histogram(
            "crosscam_request_seconds", "Time of a request", ["action"], registry=self.metrics
        )
        self.failures = Counter(
            "crosscam_retention_failures", "Times that old sightings could not be deleted",
            registry=self.metrics,
        )  # fmt: skip
        self.size = Gauge("crosscam_sightings", "Sightings kept", registry=self.metrics)
        self.size.set_function(lambda: len(self.gallery))

    def close(self) -> None:
        """Lets go of gallery and audit log."""
        self.audit.close()
        self.gallery.close()

    def note(self, token: Token, action: str, **details: Any) -> int:
        """A line of the audit log; returns its number."""
        kept = {k: v for k, v in details.items() if v not in ("", None, [], {})}
        return int(self.audit.append(token.name, token.role.name.lower(), action, **kept)["number"])

    @contextlib.contextmanager
    def reading(self, token: Token, action: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Writes a line when the block ends: what was looked at, or asked for in vain.

        The block adds to the dictionary; ``shown`` in it are the ids that the answer names.
        """
        more: dict[str, Any] = {}
        try:
            yield more
        except Exception as error:
            self.note(token, action, **details, **more, failed=type(error).__name__)
            raise
        self.note(token, action, **details, **more)
        with self._showing:
            for id in more.get("shown", ()):
                self._shown[token.sha256, id] = None
                self._shown.move_to_end((token.sha256, id))
            while len(self._shown) > _REMEMBERED:
                self._shown.popitem(last=False)

    @contextlib.contextmanager
    def changing(
        self, who: str, role: str, action: str, **details: Any
    ) -> Iterator[dict[str, Any]]:
        """Writes a line before the block, and one after it with what came of it."""
        kept = {k: v for k, v in details.items() if v not in ("", None, [], {})}
        of = self.audit.append(who, role, action, stage="begun", **kept)["number"]
        more: dict[str, Any] = {}
        try:
            yield more
        except BaseException as error:
            self.audit.append(who, role, action, stage="failed", of=of, error=type(error).__name__)
            raise
        self.audit.append(who, role, action, stage="done", of=of, **more)

    def seen(self, token: Token, id: str) -> bool:
        """Whether a line of the log has named this sighting to this token lately."""
        with self._showing:
            return (token.sha256, id) in self._shown

    def pseudonym(self, person: str) -> str:
        """What the audit log calls a person: it says nothing once the name is forgotten."""
        return hmac.new(self.salt, person.encode(), hashlib.sha256).hexdigest()[:16]

    def retain(self) -> dict[str, int]:
        """Deletes what is older than it may be; returns how much.

        A sighting is as old as its time says, and as long as it has been in the gallery: one
        without a time, or with one in the future, does not stay for good.
        """
        with self._retaining:
            return self._retain(self.clock())

    def _retain(self, now: float) -> dict[str, int]:
        gone = {"sightings": 0, "audit": 0}
        if self.settings.retention_days:
            cut = now - DAY * self.settings.retention_days
            for before, added_before in ((cut, None), (None, cut)):
                if not self.gallery.points.count(Where(before=before, added_before=added_before)):
                    continue
                limits = {"before": before, "added_before": added_before}
                with self.changing("retention", "service", "forget", **limits) as more:
                    receipt = self.gallery.forget(
                        before=before, added_before=added_before, reason="retention", erase=False
                    )
                    more.update(receipt=receipt.id, deleted=receipt.sightings)
                gone["sightings"] += receipt.sightings
        Kept(self.settings.retention_days, now).write(self.state / "retention.json")
        if self.settings.audit_days:
            gone["audit"] = self.audit.trim(now - DAY * self.settings.audit_days)
        return gone

    def compact(self, stop: threading.Event) -> bool:
        """Rewrites the store's files without what was deleted, and indexes what is new.

        After somebody forgot, as soon as it can be; else once in ``compact_hours``.  Searches and
        changes go on meanwhile.  Returns whether it was done.
        """
        hours, now = self.settings.compact_hours, self.clock()
        if not hours or not self.gallery.points.erases:  # a server does it by itself
            return False
        if not (self.soon or now - self._compacted >= 3600 * hours):
            return False
        fresh = len(self.gallery) - self.gallery.points.indexed()
        if not self.gallery.unerased and fresh < _FRESH:
            return False
        asked, self.soon, done = self.soon, False, False  # what is forgotten now asks again
        try:
            with self.changing("retention", "service", "erase") as more:
                done = self.gallery.compact_aside(stop)
                more["erased"] = done and not self.gallery.unerased
        finally:
            if done:
                self._compacted = now
            else:  # within an hour
                self.soon = self.soon or asked
        return done

    def judge(self, found: Found, far: float) -> dict[str, Any]:
        """What the calibration says of a search: a probability and a decision for every hit."""
        values = found.to_json()
        it = self.calibration
        if it is None:
            return {**values, "decision": None}
        scores = [entry["score"] for entry in values["results"]]
        said = judge(it, scores, len(self.gallery), far=far, present=self.settings.present)
        for entry, chance, decision in zip(
            values["results"], said.probabilities, said.decisions, strict=True
        ):
            entry["probability"], entry["decision"] = round(chance, 4), decision
        return {**values, "decision": said.to_json()}

    def look_for_drift(self) -> None:
        """Compares scores of strangers in the gallery with those of the calibration.

        Ids follow nothing but content, so neighbors in their order are sightings drawn blindly.
        """
        if self.calibration is None:
            return
        points = list(self.gallery.points.scan(Where(), vectors=True, limit=_DRIFT_SAMPLE))
        scores = [
            float(np.clip(a.vector @ b.vector, -1.0, 1.0))
            for a, b in itertools.pairwise(points)
            if a.vector is not None
            and b.vector is not None
            and not _one_person(
                Sighting.from_payload(a.id, a.payload), Sighting.from_payload(b.id, b.payload)
            )
        ]
        if len(scores) >= _DRIFT_LEAST:
            self.drift = self.calibration.drift(scores, self.settings.far)


def _one_person(a: Sighting, b: Sighting) -> bool:
    """Whether two sightings are known to show one person."""
    return (a.track_key is not None and a.track_key == b.track_key) or (
        a.person != "" and a.person == b.person
    )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NamedSightings(_Strict):
    """Sightings of a person."""

    name: Name
    ids: Ids
    same_frame: bool = False
    reason: Reason = ""


class Rejected(_Strict):
    """Sightings that do not show a person."""

    name: Name
    ids: Ids
    reason: Reason = ""


class Released(_Strict):
    """Sightings whose names are taken off."""

    ids: Ids
    reason: Reason = ""


class Renamed(_Strict):
    """A person's new name."""

    name: Name
    new: Name
    reason: Reason = ""


class Merged(_Strict):
    """People who are one person."""

    names: Annotated[list[Name], Field(min_length=1, max_length=100)]
    into: Name
    reason: Reason = ""


class Split(_Strict):
    """Sightings of a person that are another's."""

    name: Name
    ids: Ids
    new: Name
    reason: Reason = ""


class Forget(_Strict):
    """What to delete for good; everything given must hold."""

    person: Name | None = None
    camera: Camera | None = None
    before: Name | None = None
    ids: Annotated[list[Id], Field(max_length=1000)] = []
    reason: Reason = ""


def make_app(service: Service) -> FastAPI:
    """The application of a service, which stays the caller's to close."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
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

    app = FastAPI(
        title="crosscam",
        version=crosscam.__version__,
        summary="Finds the same person again across cameras.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    settings, gallery = service.settings, service.gallery
    scheme = HTTPBearer(auto_error=False, description="A token made with `crosscam token add`.")

    def needs(role: Role, cost: float = 1.0) -> Any:
        def check(
            request: Request,
            credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)],
        ) -> Token:
            token = service.tokens.find(credentials.credentials) if credentials else None
            if token is None:
                raise HTTPException(
                    401, "a valid bearer token is needed.", {"www-authenticate": "Bearer"}
                )
            wait = service.limit.take(token.sha256, cost)
            if wait:
                raise HTTPException(
                    429, "too many requests; wait a little.", {"retry-after": str(math.ceil(wait))}
                )
            if token.role < role:
                service.note(token, "refused", asked=request.scope["route"].name)
                raise HTTPException(
                    403,
                    f"this needs the role {role.name.lower()}, and the token has "
                    f"{token.role.name.lower()}.",
                )
            only_known_parameters(request)
            return token

        return Depends(check)

    viewer, operator, admin = (needs(role) for role in Role)
    thumbnails = needs(Role.VIEWER, _PICTURE_COST)

    def only_known_parameters(request: Request) -> None:
        """Refuses parameters in the address that the route does not have, as ``only_known``."""
        known = [field.alias for field in request.scope["route"].dependant.query_params]
        _require_known("query parameters", request.query_params, known)

    async def only_known(request: Request) -> None:
        """Refuses a form with fields that the route does not have: a typo must not widen a search.

        The form was read before, and is kept with the request.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
            raise HTTPException(422, "send the fields as a form (multipart/form-data).")
        own = inspect.signature(request.scope["route"].endpoint).parameters
        known = [name for name in own if name not in ("token", "_")]
        _require_known("form fields", await request.form(), known)

    form = Depends(only_known)

    def reasoned(reason: str) -> None:
        if settings.require_reason and not reason.strip():
            raise HTTPException(422, "this service asks for a reason.")

    @contextlib.contextmanager
    def turn(of: threading.Semaphore) -> Iterator[None]:
        if not of.acquire(timeout=_WAIT):
            raise HTTPException(503, "too many requests at once; try again.", {"retry-after": "2"})
        try:
            yield
        finally:
            of.release()

    def read_pictures(uploads: list[UploadFile], *, keep: bool = False) -> list[tuple[bytes, Any]]:
        """Bytes and pixels; an ``ImageError`` says which of several cannot be used (or kept)."""
        if len(uploads) > settings.max_pictures:
            raise HTTPException(
                422, f"at most {counted(settings.max_pictures, 'picture')}, got {len(uploads)}."
            )
        pictures = []
        most = min(settings.max_pixels, MAX_PIXELS) if keep else settings.max_pixels
        for number, upload in enumerate(uploads, 1):
            data = upload.file.read()
            try:
                pictures.append((data, decode(data, max_pixels=most)))
                if keep:
                    picture_name(data)
            except ImageError as error:
                raise ImageError(_which(number, len(uploads), str(error))) from error
        return pictures

    # A name as the gallery writes it, for whom it has and whom it has not: the log would else call
    # somebody differently whose name came with a space more.
    called = gallery.people.spelled

    def who(names: list[str]) -> list[str]:
        return [service.pseudonym(name) for name in names]

    def change(token: Token, action: str, **details: Any) -> Any:
        return service.changing(token.name, token.role.name.lower(), action, **details)

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

    # --- anybody ------------------------------------------------------------------------------

    @app.get("/health", tags=["service"])
    def health() -> dict[str, Any]:
        """Whether the service answers."""
        return {"status": "ok", "version": crosscam.__version__}

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        folder = importlib.resources.files("crosscam.serve") / "web"
        return Response((folder / "index.html").read_bytes(), media_type="text/html")

    # --- viewers --------------------------------------------------------------------------------

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    def metrics(_: Token = viewer) -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(
            generate_latest(service.metrics), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/api/me", tags=["service"])
    def me(token: Token = viewer) -> dict[str, Any]:
        """Whose token this is, and what the service asks for."""
        return {
            "name": token.name,
            "role": token.role.name.lower(),
            "require_reason": settings.require_reason,
            "calibrated": service.calibration is not None,
            "retention_days": settings.retention_days,
        }

    @app.get("/api/stats", tags=["gallery"])
    def stats(_: Token = viewer) -> dict[str, Any]:
        """How much the gallery holds."""
        return gallery.stats().to_json()

    @app.post("/api/search", tags=["gallery"])
    def search(
        token: Token = viewer,
        _: None = form,
        pictures: Annotated[list[UploadFile] | None, File()] = None,
        sightings: Annotated[list[Id] | None, Form()] = None,
        person: Annotated[Name | None, Form()] = None,
        cameras: Annotated[list[Camera] | None, Form()] = None,
        not_cameras: Annotated[list[Camera] | None, Form()] = None,
        after: Annotated[Name | None, Form()] = None,
        before: Annotated[Name | None, Form()] = None,
        top: Annotated[int, Form(ge=1, le=200)] = 20,
        group: Annotated[Literal["track", "person"] | None, Form()] = None,
        exclude_own_cameras: Annotated[bool, Form()] = False,
        once_per_frame: Annotated[bool, Form()] = False,
        include_known: Annotated[bool, Form()] = False,
        exact: Annotated[bool, Form()] = False,
        rerank_top: Annotated[int, Form(ge=0, le=1000)] = 0,
        far: Annotated[float | None, Form(ge=RATES[0], le=RATES[-1])] = None,
        reason: Annotated[Reason, Form()] = "",
    ) -> dict[str, Any]:
        """Ranks the gallery for the person on the given pictures, sightings, or of that name."""
        reasoned(reason)
        person = person and called(person)
        with service.reading(
            token,
            "search",
            sightings=sightings,
            person=person and service.pseudonym(person),
            cameras=cameras,
            after=after,
            before=before,
            reason=reason,
        ) as line:
            with turn(service.turns):
                read = read_pictures(pictures or [])
                line["pictures"] = [hashlib.sha256(data).hexdigest() for data, _ in read]
                where = Where(
                    cameras=tuple(cameras or ()),
                    not_cameras=tuple(not_cameras or ()),
                    after=None if after is None else parse_time(after),
                    before=None if before is None else parse_time(before),
                )
                found = gallery.search(
                    pictures=[picture for _, picture in read],
                    sightings=sightings or (),
                    person=person,
                    top=top,
                    where=where,
                    group=group,
                    exclude_own_cameras=exclude_own_cameras,
                    once_per_frame=once_per_frame,
                    include_known=include_known,
                    exact=exact,
                    rerank_top=rerank_top,
                )
                answer = service.judge(found, far or settings.far)
            line["known"] = (answer["decision"] or {}).get("known")
            line["shown"] = [hit.sighting.id for hit in found]
        return answer

    @app.get("/api/sightings", tags=["gallery"])
    def list_sightings(
        token: Token = viewer,
        cameras: Annotated[list[Camera] | None, Query()] = None,
        person: Name | None = None,
        after: Name | None = None,
        before: Name | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 60,
        start: Id | None = None,
    ) -> dict[str, Any]:
        """Sightings that fit, without a query picture, in the order of their ids.

        Where there are more, ``next`` is the ``start`` of the call that goes on.
        """
        person = person and called(person)
        with service.reading(
            token, "list", cameras=cameras, person=person and service.pseudonym(person),
            after=after, before=before,
        ) as line:  # fmt: skip
            where = Where(
                cameras=tuple(cameras or ()),
                persons=() if person is None else (person,),
                after=None if after is None else parse_time(after),
                before=None if before is None else parse_time(before),
            )
            found = list(gallery.find(where, limit=limit + 1, start=start))
            more, found = found[limit:], found[:limit]
            line["shown"] = [s.id for s in found]
        return {
            "sightings": [s.to_json() for s in found],
            "next": more[0].id if more else None,
        }

    @app.get("/api/sightings/{id}", tags=["gallery"])
    def one_sighting(id: Id, token: Token = viewer) -> dict[str, Any]:
        """What is known of a sighting."""
        with service.reading(token, "look", sightings=[id]) as line:
            found = gallery.sighting(id)
            line["shown"] = [found.id]
        return found.to_json()

    @app.get("/api/sightings/{id}/picture", tags=["gallery"], response_class=Response)
    def picture(id: Id, token: Token = thumbnails) -> Response:
        """The picture of a sighting, its longer side at most 1024 pixels.

        The line of the search or list that named the sighting to this token stands for it in the
        audit log; where there is none, it gets a line of its own.
        """
        found = gallery.sighting(id)
        if not found.picture:
            raise HTTPException(404, "this sighting was added without a picture.")
        if not service.seen(token, found.id):
            with service.reading(token, "picture", sightings=[found.id]) as line:
                line["shown"] = [found.id]
        with turn(service.shows):
            # Coded anew: what was uploaded is never sent on as it came, nor what its camera noted.
            data = gallery.read_picture(found)
            shown = Image.fromarray(decode(data, max_pixels=settings.max_pixels))
            shown.thumbnail((_LARGEST, _LARGEST))
            out = io.BytesIO()
            shown.save(out, "JPEG", quality=92)
        return Response(out.getvalue(), media_type="image/jpeg")

    @app.get("/api/people", tags=["people"])
    def people(token: Token = viewer) -> dict[str, Any]:
        """The named people and how many sightings carry each name."""
        with service.reading(token, "people") as line:
            names = gallery.people.names()
            line["results"] = len(names)
        return {"people": [{"name": n, "sightings": c} for n, c in names.items()]}

    @app.get("/api/person", tags=["people"])
    def one_person(name: Name, token: Token = viewer) -> dict[str, Any]:
        """A named person and the sightings that carry the name, oldest first (at most 500)."""
        name = called(name)
        with service.reading(token, "look", person=service.pseudonym(name)) as line:
            found = gallery.people.get(name)
            own = gallery.people.sightings(name)[:500]
            line["shown"] = [s.id for s in own]
        return {**found.to_json(), "own": [s.to_json() for s in own]}

    # --- operators ------------------------------------------------------------------------------

    @app.post("/api/sightings", tags=["gallery"], status_code=201)
    def add(
        pictures: Annotated[list[UploadFile], File()],
        token: Token = operator,
        _: None = form,
        camera: Annotated[str, Form(max_length=200)] = "",
        time: Annotated[Name | None, Form()] = None,
        track: Annotated[str, Form(max_length=200)] = "",
        person: Annotated[str, Form(max_length=200)] = "",
        reason: Annotated[Reason, Form()] = "",
    ) -> dict[str, Any]:
        """Adds one sighting per picture; those that are there already stay as they are.

        Where one of the pictures cannot be used, none is added.
        """
        when = None if time is None else parse_time(time)
        person = person and called(person)
        camera = camera_name(camera)
        track = track and clean_name(track, "a track's name")
        with turn(service.turns):
            read = read_pictures(pictures, keep=True)
            with change(
                token,
                "add",
                pictures=[hashlib.sha256(data).hexdigest() for data, _ in read],
                camera=camera,
                person=person and service.pseudonym(person),
                reason=reason,
            ) as line:
                items = [
                    Item(
                        data, camera=camera, time=when, track=track, person=person, source="upload"
                    )
                    for data, _ in read
                ]
                added = gallery.add(items)
                line["sightings"] = [id for id in added.ids if id]
                if added.broken:  # none that read_pictures let through should be
                    number = added.ids.index("") + 1
                    raise ImageError(_which(number, len(read), added.broken[0][1]))
        return {"ids": added.ids, "new": added.new, "present": added.present}

    def named(found: list[Sighting]) -> dict[str, Any]:
        return {"sightings": [s.to_json() for s in found]}

    @app.post("/api/enroll", tags=["people"])
    def enroll(body: NamedSightings, token: Token = operator) -> Any:
        """Names the person that sightings show."""
        name = called(body.name)
        with change(token, "enroll", people=who([name]), sightings=body.ids, reason=body.reason):
            return named(gallery.people.enroll(name, body.ids, same_frame=body.same_frame))

    @app.post("/api/confirm", tags=["people"])
    def confirm(body: NamedSightings, token: Token = operator) -> Any:
        """Says that sightings do show a person; they are asked with from now on."""
        name = called(body.name)
        with change(token, "confirm", people=who([name]), sightings=body.ids, reason=body.reason):
            return named(gallery.people.confirm(name, body.ids, same_frame=body.same_frame))

    @app.post("/api/reject", tags=["people"])
    def reject(body: Rejected, token: Token = operator) -> Any:
        """Says that sightings do not show a person; they are left out from now on."""
        name = called(body.name)
        with change(token, "reject", people=who([name]), sightings=body.ids, reason=body.reason):
            return named(gallery.people.reject(name, body.ids))

    @app.post("/api/release", tags=["people"])
    def release(body: Released, token: Token = operator) -> Any:
        """Takes the names off sightings, without saying whom they do not show."""
        with change(token, "release", sightings=body.ids, reason=body.reason) as line:
            names = {s.person for s in gallery.sightings(body.ids) if s.person}
            line["people"] = who(sorted(names))
            return named(gallery.people.release(body.ids))

    @app.post("/api/rename", tags=["people"])
    def rename(body: Renamed, token: Token = operator) -> Any:
        """Gives a person a name that is free."""
        name, new = called(body.name), clean_name(body.new)
        with change(token, "rename", people=who([name, new]), reason=body.reason):
            return {"changed": gallery.people.rename(name, new)}

    @app.post("/api/split", tags=["people"])
    def split(body: Split, token: Token = operator) -> Any:
        """Makes some of a person's sightings another person's."""
        name, new = called(body.name), called(body.new)
        with change(token, "split", people=who([name, new]), sightings=body.ids,
                    reason=body.reason):  # fmt: skip
            return named(gallery.people.split(name, body.ids, new))

    @app.post("/api/merge", tags=["people"])
    def merge(body: Merged, token: Token = operator) -> Any:
        """Makes one person of several."""
        names, into = [called(name) for name in body.names], called(body.into)
        with change(token, "merge", people=who([*names, into]), reason=body.reason):
            return {"changed": gallery.people.merge(names, into)}

    # --- admins ---------------------------------------------------------------------------------

    @app.post("/api/forget", tags=["admin"])
    def forget(body: Annotated[Forget, Body()], token: Token = admin) -> dict[str, Any]:
        """Deletes sightings for good: pictures, vectors, names, judgments.  Returns a receipt.

        A person, a camera or an id that the gallery does not have is a 404, and nothing is
        deleted; a camera may have nothing from before a time, which is a receipt of none.

        They are gone from every answer, and their pictures from the disk, before it returns; the
        store's files are rewritten without them in the background, as soon as that can be.
        """
        reasoned(body.reason)
        person, camera = body.person and called(body.person), body.camera
        there = camera and gallery.spelled("camera", camera)
        camera = there or (camera and clean_name(camera, "a camera's name"))
        with change(
            token,
            "forget",
            person=person and service.pseudonym(person),
            camera=camera,
            before=body.before,
            sightings=body.ids,
            reason=body.reason,
        ) as line:
            if person is not None:
                gallery.people.called(person)  # says who is not there
            if camera is not None and there is None:
                cameras = gallery.points.values("camera", Where())
                raise NotFoundError(
                    f"the gallery has no sighting of camera {camera!r}. Its cameras: "
                    f"{', '.join(sorted(cameras)[:20]) or 'none'}{' ...' * (len(cameras) > 20)}."
                )
            if body.ids:
                gallery.sightings(body.ids)  # says which are not there
            receipt = gallery.forget(
                person=person,
                camera=camera,
                before=None if body.before is None else parse_time(body.before),
                ids=body.ids,
                reason=body.reason,
                erase=False,
            )
            line.update(receipt=receipt.id, deleted=receipt.sightings)
        service.soon = True
        service.wake.set()
        return receipt.to_json()

    @app.get("/api/audit", tags=["admin"])
    def audit(
        token: Token = admin,
        newest: Annotated[int, Query(ge=1, le=1000)] = 100,
        who: Annotated[str | None, Query(max_length=64)] = None,
        action: Annotated[str | None, Query(max_length=32)] = None,
    ) -> dict[str, Any]:
        """The audit log, newest first, and whether its chain is whole."""
        names = {service.pseudonym(name): name for name in gallery.people.names()}
        entries = service.audit.entries(newest=newest, who=who, action=action)
        for entry in entries:
            if entry.get("person") in names:
                entry["person_name"] = names[entry["person"]]
            if "people" in entry:
                entry["people_names"] = [names.get(p, "") for p in entry["people"]]
        fault = ""
        try:
            lines = service.audit.verify()
        except InputError as error:
            lines, fault = 0, str(error)
        service.note(token, "audit", asked=who, only=action)
        return {"entries": entries, "lines": lines, "whole": not fault, "fault": fault}

    @app.get("/api/calibration", tags=["service"])
    def calibration(_: Token = viewer) -> dict[str, Any]:
        """What is known of the meaning of scores."""
        it = service.calibration
        if it is None:
            return {"calibrated": False}
        return {
            "calibrated": True,
            "data": it.data,
            "people": it.people,
            "far": settings.far,
            "measured": it.measured,
            "drift": None if service.drift is None else dataclasses.asdict(service.drift),
        }

    # --- errors ---------------------------------------------------------------------------------

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

    static = importlib.resources.files("crosscam.serve") / "web"
    app.mount("/static", StaticFiles(directory=str(static)), name="static")
    app.add_middleware(BodyLimit, most=settings.max_upload_bytes, seconds=settings.body_seconds)
    app.add_middleware(SafeHeaders)
    return app


def _which(number: int, of: int, fault: str) -> str:
    """Which picture of an upload has a fault; its file's name is not ours to repeat."""
    return f"picture {number} of {of}: {fault}" if of > 1 else fault


def _require_known(what: str, given: Iterable[str], known: list[str]) -> None:
    strange = [name for name in dict.fromkeys(given) if name not in known]
    if strange:
        # Enough of a name to find it by, and nothing that a log or a terminal would obey.
        shown = ", ".join(ascii(name[:40]) for name in strange[:5])
        there = f"Known are {', '.join(known)}." if known else "There are none here."
        raise HTTPException(422, f"unknown {what}: {shown}. {there}")


def _salt(path: Path) -> bytes:
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        salt = secrets.token_bytes(_SALT)
        write_atomically(path, salt.hex())  # half a key would be one
        path.chmod(0o600)
    except ValueError:
        salt = b""
    if len(salt) != _SALT:
        raise InputError(
            f"{path} is not the key that people's names in the audit log are hashed with (it has "
            f"{2 * _SALT} hex digits). Bring it back from a copy, or move it away: a new one is "
            "made, and the log no longer tells whose names stand in its older lines."
        )
    return salt
