"""Sightings: ranked, listed, shown, added."""

import hashlib
import io
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import Response
from PIL import Image
from starlette.exceptions import HTTPException

from crosscam.decision.calibration import RATES
from crosscam.errors import ImageError
from crosscam.gallery import Item, Where, parse_time
from crosscam.gallery.pictures import picture_name
from crosscam.gallery.sighting import camera_name, clean_name
from crosscam.image import MAX_PIXELS, decode
from crosscam.serve.access import FORM, Access, turn
from crosscam.serve.bodies import Camera, Id, Name, Reason
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Token
from crosscam.wording import counted

__all__ = ["make_router"]

_LARGEST = 1024  # pixels of the longer side of a picture that is shown


def make_router(access: Access) -> APIRouter:
    """What is asked of the sightings."""
    router = APIRouter(tags=["gallery"])
    viewer, thumbnails, operator = access.viewer, access.thumbnails, access.operator
    service, called = access.service, access.called
    settings, gallery = service.settings, service.gallery

    @router.get("/api/stats")
    def stats(_: Token = viewer) -> dict[str, Any]:
        """How much the gallery holds."""
        return gallery.stats().to_json()

    @router.post("/api/search")
    def search(
        token: Token = viewer,
        _: None = FORM,
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
        access.reasoned(reason)
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
                read = _read_pictures(pictures or [], settings)
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

    @router.get("/api/sightings")
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

    @router.get("/api/sightings/{id}")
    def one_sighting(id: Id, token: Token = viewer) -> dict[str, Any]:
        """What is known of a sighting."""
        with service.reading(token, "look", sightings=[id]) as line:
            found = gallery.sighting(id)
            line["shown"] = [found.id]
        return found.to_json()

    @router.get("/api/sightings/{id}/picture", response_class=Response)
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

    @router.post("/api/sightings", status_code=201)
    def add(
        pictures: Annotated[list[UploadFile], File()],
        token: Token = operator,
        _: None = FORM,
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
            read = _read_pictures(pictures, settings, keep=True)
            with access.change(
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
                if added.broken:  # none that _read_pictures let through should be
                    number = added.ids.index("") + 1
                    raise ImageError(_which(number, len(read), added.broken[0][1]))
        return {"ids": added.ids, "new": added.new, "present": added.present}

    return router


def _read_pictures(
    uploads: list[UploadFile], settings: ServiceSettings, *, keep: bool = False
) -> list[tuple[bytes, Any]]:
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


def _which(number: int, of: int, fault: str) -> str:
    """Which picture of an upload has a fault; its file's name is not ours to repeat."""
    return f"picture {number} of {of}: {fault}" if of > 1 else fault
