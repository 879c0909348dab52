"""What only admins may: forget for good, and read who did what."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from crosscam.errors import InputError, NotFoundError
from crosscam.gallery import Where, parse_time
from crosscam.gallery.sighting import clean_name
from crosscam.serve.access import Access
from crosscam.serve.bodies import Forget
from crosscam.serve.tokens import Token

__all__ = ["make_router"]


def make_router(access: Access) -> APIRouter:
    """What is asked by those who answer for the gallery."""
    router, admin = APIRouter(tags=["admin"]), access.admin
    service, gallery = access.service, access.service.gallery

    @router.post("/api/forget")
    def forget(body: Annotated[Forget, Body()], token: Token = admin) -> dict[str, Any]:
        """Deletes sightings for good: pictures, vectors, names, judgments.  Returns a receipt.

        A person, a camera or an id that the gallery does not have is a 404, and nothing is
        deleted; a camera may have nothing from before a time, which is a receipt of none.

        They are gone from every answer, and their pictures from the disk, before it returns; the
        store's files are rewritten without them in the background, as soon as that can be.
        """
        access.reasoned(body.reason)
        person, camera = body.person and access.called(body.person), body.camera
        there = camera and gallery.spelled("camera", camera)
        camera = there or (camera and clean_name(camera, "a camera's name"))
        with access.change(
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

    @router.get("/api/audit")
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

    return router
