"""Sightings of people, kept, searched, named and forgotten.  Needs ``crosscam[gallery]``.

from crosscam.gallery import Gallery, Item

with Gallery.create("people.gallery", encoder) as gallery:
    gallery.add([Item(path, camera="3") for path in crops])
    for hit in gallery.search(pictures=["query.jpg"], top=10):
        print(hit.score, hit.sighting.camera, hit.picture)
"""

from __future__ import annotations

from crosscam.gallery.gallery import Gallery, Item
from crosscam.gallery.manifest import Encoder, Model
from crosscam.gallery.people import People, Person
from crosscam.gallery.results import Added, Check, Receipt, Stats
from crosscam.gallery.search import Found, Hit
from crosscam.gallery.sighting import Sighting, Where, format_time, parse_time

__all__ = [
    "Added",
    "Check",
    "Encoder",
    "Found",
    "Gallery",
    "Hit",
    "Item",
    "Model",
    "People",
    "Person",
    "Receipt",
    "Sighting",
    "Stats",
    "Where",
    "format_time",
    "parse_time",
]
