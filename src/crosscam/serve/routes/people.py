"""People: who has a name, and which sightings carry it."""

from typing import Any

from fastapi import APIRouter

from crosscam.gallery import Sighting
from crosscam.gallery.sighting import clean_name
from crosscam.serve.access import Access
from crosscam.serve.bodies import Merged, Name, NamedSightings, Rejected, Released, Renamed, Split
from crosscam.serve.tokens import Token

__all__ = ["make_router"]


def make_router(access: Access) -> APIRouter:
    """What is asked of people and their names."""
    router = APIRouter(tags=["people"])
    viewer, operator = access.viewer, access.operator
    called, who, change = access.called, access.who, access.change
    service, gallery = access.service, access.service.gallery

    @router.get("/api/people")
    def people(token: Token = viewer) -> dict[str, Any]:
        """The named people and how many sightings carry each name."""
        with service.reading(token, "people") as line:
            names = gallery.people.names()
            line["results"] = len(names)
        return {"people": [{"name": n, "sightings": c} for n, c in names.items()]}

    @router.get("/api/person")
    def one_person(name: Name, token: Token = viewer) -> dict[str, Any]:
        """A named person and the sightings that carry the name, oldest first (at most 500)."""
        name = called(name)
        with service.reading(token, "look", person=service.pseudonym(name)) as line:
            found = gallery.people.get(name)
            own = gallery.people.sightings(name)[:500]
            line["shown"] = [s.id for s in own]
        return {**found.to_json(), "own": [s.to_json() for s in own]}

    @router.post("/api/enroll")
    def enroll(body: NamedSightings, token: Token = operator) -> Any:
        """Names the person that sightings show."""
        name = called(body.name)
        with change(token, "enroll", people=who([name]), sightings=body.ids, reason=body.reason):
            return _named(gallery.people.enroll(name, body.ids, same_frame=body.same_frame))

    @router.post("/api/confirm")
    def confirm(body: NamedSightings, token: Token = operator) -> Any:
        """Says that sightings do show a person; they are asked with from now on."""
        name = called(body.name)
        with change(token, "confirm", people=who([name]), sightings=body.ids, reason=body.reason):
            return _named(gallery.people.confirm(name, body.ids, same_frame=body.same_frame))

    @router.post("/api/reject")
    def reject(body: Rejected, token: Token = operator) -> Any:
        """Says that sightings do not show a person; they are left out from now on."""
        name = called(body.name)
        with change(token, "reject", people=who([name]), sightings=body.ids, reason=body.reason):
            return _named(gallery.people.reject(name, body.ids))

    @router.post("/api/release")
    def release(body: Released, token: Token = operator) -> Any:
        """Takes the names off sightings, without saying whom they do not show."""
        with change(token, "release", sightings=body.ids, reason=body.reason) as line:
            names = {s.person for s in gallery.sightings(body.ids) if s.person}
            line["people"] = who(sorted(names))
            return _named(gallery.people.release(body.ids))

    @router.post("/api/rename")
    def rename(body: Renamed, token: Token = operator) -> Any:
        """Gives a person a name that is free."""
        name, new = called(body.name), clean_name(body.new)
        with change(token, "rename", people=who([name, new]), reason=body.reason):
            return {"changed": gallery.people.rename(name, new)}

    @router.post("/api/split")
    def split(body: Split, token: Token = operator) -> Any:
        """Makes some of a person's sightings another person's."""
        name, new = called(body.name), called(body.new)
        with change(token, "split", people=who([name, new]), sightings=body.ids,
                    reason=body.reason):  # fmt: skip
            return _named(gallery.people.split(name, body.ids, new))

    @router.post("/api/merge")
    def merge(body: Merged, token: Token = operator) -> Any:
        """Makes one person of several."""
        names, into = [called(name) for name in body.names], called(body.into)
        with change(token, "merge", people=who([*names, into]), reason=body.reason):
            return {"changed": gallery.people.merge(names, into)}

    return router


def _named(found: list[Sighting]) -> dict[str, Any]:
    return {"sightings": [s.to_json() for s in found]}
