"""What requests carry: the kinds of their fields, and the bodies of those that are JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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
