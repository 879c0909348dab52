"""A gallery: sightings that are kept, searched, named and forgotten.

    with Gallery.open("people.gallery", encoder) as gallery:
        gallery.add([Item(Path("crop.jpg"), camera="3", time=parse_time("2026-05-04T10:00Z"))])
        found = gallery.search(pictures=[Path("query.jpg")], top=10)

A gallery has points (vectors and what is known of a sighting, :mod:`~crosscam.gallery.points`),
pictures (files named by their content) and a manifest (the model its vectors come from).  Names
and feedback are kept with the points themselves, so that they are written, copied and deleted
together with them: there is no second database to get out of step.

What has been acknowledged survives the death of the process: a picture is in place before its
point is written, a point is in the store's log before the call returns.  At the end of ``add``
and of every change to people both are flushed, so that they survive a power cut too.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from crosscam.errors import DiskError, GalleryError, ImageError, InputError, NotFoundError
from crosscam.files import private_folder
from crosscam.gallery.aside import Journal, bring_over, optimize_aside
from crosscam.gallery.edge import EdgeHome, disk_bytes
from crosscam.gallery.manifest import (
    Encoder,
    Model,
    model_of,
    new_manifest,
    require_manifest,
    require_model,
)
from crosscam.gallery.people import People
from crosscam.gallery.pictures import Pictures, encode, exclusive, picture_name
from crosscam.gallery.points import (
    Home,
    Points,
    Quantization,
    Vectors,
    checked_vectors,
    is_url,
)
from crosscam.gallery.results import Added, Check, Receipt, Stats
from crosscam.gallery.search import search as search_gallery
from crosscam.gallery.server import ServerHome
from crosscam.gallery.sighting import (
    UNKNOWN,
    Sighting,
    Where,
    checked_facts,
    format_time,
    sighting_id,
    tidy,
    valid_id,
)
from crosscam.image import MAX_BYTES, decode
from crosscam.wording import counted, either

__all__ = ["Gallery", "Item"]

_BATCH = 256  # sightings that are acknowledged together
_FLUSH_EVERY = 20_000
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A sighting to be added: a picture (file, bytes, or uint8 RGB [h, w, 3]) and what is known.

    ``time`` is in seconds since 1970 UTC, ``quality`` in 0..1.  ``person`` is a name that came
    with the data.  ``box`` is where the person stood in its frame; the picture is the crop
    already.  Names are tidied (spaces, Unicode), so that two spellings are one camera or person;
    ``source`` is the picture's path where it is not given.

    Raises:
        InputError: a thing of another kind or out of range, a name with control characters, a
            camera called "unknown".
    """

    picture: Path | str | bytes | npt.NDArray[np.uint8]
    camera: str = ""
    time: float | None = None
    frame: str = ""
    track: str = ""
    source: str = ""
    box: tuple[float, float, float, float] | None = None
    quality: float | None = None
    person: str = ""
    _came: tuple[str, str] = field(default=("", ""), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        picture = self.picture
        if isinstance(picture, (str, os.PathLike)):
            picture = Path(picture)
        if not isinstance(picture, (Path, bytes, np.ndarray)):
            raise InputError(
                "the picture of an item is a path, bytes or an array uint8 [h, w, 3], got "
                f"{type(picture).__name__}."
            )
        object.__setattr__(self, "picture", picture)
        if self.source == "" and isinstance(picture, Path):
            # Bytes of a path that are no UTF-8 cannot be stored.
            object.__setattr__(self, "source", os.fsencode(picture).decode("utf-8", "replace"))
        # The camera and frame as older versions made an id of them.
        object.__setattr__(self, "_came", (self.camera, self.frame))
        for name, value in checked_facts(self).items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.source or "a picture"


class Gallery:
    """An open gallery.  It can be used from several threads; changes take turns.

    Made by :meth:`open` and :meth:`create`.
    """

    def __init__(
        self,
        place: str,
        home: Home,
        manifest: dict[str, Any],
        pictures: Pictures,
        encoder: Encoder | None,
        held: ExitStack,
    ) -> None:
        self.place = place
        self.pictures = pictures
        self.encoder = encoder
        self.clock: Callable[[], float] = time.time  # seconds since 1970 UTC
        self._home, self._manifest, self._held = home, manifest, held
        self.made = False  # by this very object
        self._discarded = False
        self._changing = threading.RLock()
        self._compacting = threading.Lock()
        self._forgotten = 0  # how often something was deleted
        self.model = model_of(manifest)
        if encoder is not None:
            self.require(encoder)
        self.points: Points = home.open(
            manifest["points"], self.model.dim, manifest["quantization"], create=False
        )

    @classmethod
    def open(
        cls,
        place: str | Path,
        encoder: Encoder | None = None,
        *,
        pictures: Path | None = None,
        doing: str = "",
        home: Home | None = None,
    ) -> Gallery:
        """Open the gallery in a folder or on a server.

        Args:
            place: the folder, or ``http://host:6333/NAME``.
            encoder: needed to add and to search by picture; may be left out otherwise.
            pictures: the folder of the pictures; only, and then always, with a server.
            doing: what this process does, for the message others get while it holds the lock.
            home: the store, where it is not the one that ``place`` names (tests).

        Raises:
            GalleryError: there is none, it is in use, of a newer format or of another model, or
                the server does not answer.
        """
        return cls._open(place, encoder, None, "none", pictures, doing, home)

    @classmethod
    def create(
        cls,
        place: str | Path,
        encoder: Encoder | Model,
        *,
        pictures: Path | None = None,
        quantization: Quantization = "none",
        doing: str = "",
        home: Home | None = None,
    ) -> Gallery:
        """As :meth:`open`, after making an empty gallery where there is none.

        ``quantization="int8"`` keeps a second copy of the vectors in a quarter of their size,
        which is what is searched; the best are then scored again by the vectors themselves.
        """
        model = encoder if isinstance(encoder, Model) else Model.of(encoder)
        use = None if isinstance(encoder, Model) else encoder
        return cls._open(place, use, model, quantization, pictures, doing, home)

    @classmethod
    def _open(
        cls,
        place: str | Path,
        encoder: Encoder | None,
        model: Model | None,
        quantization: Quantization,
        pictures: Path | None,
        doing: str,
        home: Home | None,
    ) -> Gallery:
        remote = is_url(place) or home is not None
        folder = _picture_folder(place, pictures) if remote else Path(place)
        if not remote:
            _require_gallery(folder, creating=model is not None)
        with ExitStack() as held:
            if model is not None or remote:
                private_folder(folder)
            held.enter_context(exclusive(folder, doing or "crosscam"))
            if home is None:
                home = (
                    ServerHome(str(place), api_key=os.environ.get("CROSSCAM_QDRANT_API_KEY"))
                    if remote
                    else EdgeHome(folder)
                )
            held.callback(home.close)
            manifest = home.read()
            made = manifest is None
            if manifest is None:
                if model is None:
                    raise GalleryError(
                        f"there is no gallery at {place}. Add something first: "
                        f"crosscam gallery add PICTURES --gallery {place} --model MODEL."
                    )
                manifest = new_manifest(model, quantization, time.time())
                home.open(manifest["points"], model.dim, quantization, create=True).close()
                home.write(manifest)
            require_manifest(manifest, place)
            if model is not None:
                require_model(model_of(manifest), model, place)
            store = Pictures(folder if remote else folder / "pictures")
            gallery = cls(str(place), home, manifest, store, encoder, held.pop_all())
            gallery.made = made
            return gallery

    def discard(self) -> None:
        """Close a gallery that holds nothing, and leave nothing of it behind.

        Raises:
            GalleryError: it holds sightings.
        """
        if len(self):
            raise GalleryError(f"{self.place} holds {counted(len(self), 'sighting')}.")
        with self._changing, self._held:
            self._remove_orphans()
            self.points.close()
            self._home.unwrite()
            self._home.drop(self._manifest["points"])
            self._discarded = True

    def close(self) -> None:
        """Flush and let go; the gallery cannot be used afterwards."""
        if self._discarded:
            return
        with self._changing, self._held:
            try:
                self.flush()
            finally:
                self.points.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.points.count(Where())

    @property
    def quantization(self) -> Quantization:
        """How vectors are kept for approximate search."""
        kind: Quantization = self._manifest["quantization"]
        return kind

    def require(self, encoder: Encoder) -> None:
        """``GalleryError`` unless the vectors here come from this very model."""
        require_model(self.model, Model.of(encoder), self.place)

    # --- adding -----------------------------------------------------------------------------------

    def add(
        self,
        items: Iterable[Item],
        *,
        progress: Callable[[int], None] = lambda _: None,
        acknowledged: Callable[[Sequence[str]], None] = lambda _: None,
        batch: int = _BATCH,
    ) -> Added:
        """Add sightings; those that are there already are left as they are.

        An item whose picture is broken is skipped and named in the result.  Interrupted at any
        point, the same call goes on where it stopped: what was added is found by content, camera
        and time, and is not embedded again.

        Args:
            items: may be a generator; a batch is in memory at a time.
            progress: called with the number of items just finished.
            acknowledged: called with the ids of a batch once it survives a kill.
            batch: items that are embedded and written together.
        """
        encoder = self.require_encoder("add pictures")
        result = Added()
        unflushed = 0
        for some in _batches(items, batch):
            with self._changing:
                before = result.new
                ids = self._add_batch(some, encoder, result)
                unflushed += result.new - before
                if unflushed >= _FLUSH_EVERY:
                    self.flush()
                    unflushed = 0
            result.ids += ids
            acknowledged([i for i in ids if i])
            progress(len(some))
        self.flush()
        return result

    def _add_batch(self, items: Sequence[Item], encoder: Encoder, result: Added) -> list[str]:
        ids: list[str] = []
        sightings: dict[str, Sighting] = {}
        untidy: dict[str, str] = {}  # ids by those that older versions made
        content: dict[str, tuple[Item, bytes]] = {}
        for item in items:
            try:
                data = _bytes(item.picture)
                name = picture_name(data)
            except ImageError as error:
                result.broken.append((item.name, str(error)))
                ids.append("")
                continue
            id = sighting_id(name[:64], item.camera, item.time, item.frame)
            ids.append(id)
            if id not in sightings:
                sightings[id] = self._sighting(id, name, item)
                content[id] = (item, data)
            camera, frame = item._came
            if (camera, frame) != (item.camera, item.frame):
                untidy[sighting_id(name[:64], camera, item.time, frame)] = id
        known = {p.id for p in self.points.get([*sightings, *untidy], payload=False)}
        older = {id: old for old, id in untidy.items() if old in known and id not in known}
        ids = [older.get(i, i) for i in ids]
        known |= set(older)
        pictures, fresh = [], []
        odd = self._odd_names(items)
        for id, sighting in sightings.items():
            if id in known:
                continue
            item, data = content[id]
            try:
                pictures.append(decode(data))
            except ImageError as error:
                why = str(error).removeprefix("the upload ")
                result.broken.append((item.name, why))
                ids = ["" if i == id else i for i in ids]
                continue
            fresh.append(replace(sighting, person=odd.get(sighting.person, sighting.person)))
        if fresh:
            vectors = checked_vectors(encoder.embed(pictures), len(fresh), self.model.dim)
            for s in fresh:
                self.pictures.put(s.picture, content[s.id][1])
            self.points.add([s.id for s in fresh], vectors, [s.payload() for s in fresh])
        result.new += len(fresh)
        result.present += sum(1 for i in ids if i) - len(fresh)
        return ids

    def add_vectors(self, vectors: npt.ArrayLike, items: Sequence[Sighting]) -> list[str]:
        """Add vectors [N, D] made elsewhere by the gallery's model, without pictures.

        ``items`` say what is known, as an :class:`Item` would; their ``id`` is not read,
        ``picture`` is empty.  Vectors must have unit length.  Returns the ids.  They cannot be
        embedded again later.
        """
        array = np.ascontiguousarray(vectors, np.float32)
        array = checked_vectors(array, len(items), self.model.dim)
        if any(s.picture for s in items):
            raise InputError("a vector added by itself has no picture; add the picture instead.")
        items = [replace(s, **checked_facts(s)) for s in items]
        ids: list[str] = []
        own = {"model": self.model.short, "added": round(self.clock(), 3)}
        with self._changing:
            for start in range(0, len(items), _BATCH):
                rows = array[start : start + _BATCH]
                some = items[start : start + _BATCH]
                odd = self._odd_names(some)
                some = [replace(s, person=odd.get(s.person, s.person)) for s in some]
                content = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
                new = [
                    sighting_id(c, s.camera, s.time, s.frame)
                    for c, s in zip(content, some, strict=True)
                ]
                payloads = [{**s.payload(), **own} for s in some]
                self.points.add(new, rows, payloads)
                ids += new
            self.flush()
        return ids

    def _odd_names(self, items: Sequence[Item | Sighting]) -> dict[str, str]:
        """As what people of these tidy names are known whose names older versions kept untidy."""
        if not any(i.person for i in items):
            return {}
        known = self.points.values("person", Where())
        return {tidy(n): n for n in known if tidy(n) and tidy(n) not in known}

    def _sighting(self, id: str, name: str, item: Item) -> Sighting:
        return Sighting(
            id=id,
            picture=name,
            camera=item.camera,
            time=item.time,
            frame=item.frame,
            track=item.track,
            source=item.source,
            added=round(self.clock(), 3),
            box=item.box,
            quality=item.quality,
            person=item.person,
            how="given" if item.person else "",
            model=self.model.short,
        )

    def flush(self) -> None:
        """Make everything survive a power cut."""
        self.pictures.flush()
        self.points.flush()

    # --- searching and people ---------------------------------------------------------------------

    search = search_gallery

    @property
    def people(self) -> People:
        """The named people, and what was said about them."""
        return People(self)

    # --- reading ----------------------------------------------------------------------------------

    def sighting(self, id: str) -> Sighting:
        """One sighting; ``NotFoundError`` if there is none of that id."""
        return self.sightings([id])[0]

    def sightings(self, ids: Sequence[str]) -> list[Sighting]:
        """Sightings in the order of ``ids``; ``NotFoundError`` names those that are not there."""
        ids = [valid_id(i) for i in ids]
        found = {p.id: p for p in self.points.get(ids)}
        missing = [i for i in ids if i not in found]
        if missing:
            raise NotFoundError(
                f"the gallery has no sighting {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}. `crosscam gallery show` lists ids."
            )
        return [Sighting.from_payload(i, found[i].payload) for i in ids]

    def find(
        self,
        where: Where = Where(),  # noqa: B008
        *,
        limit: int | None = None,
        start: str | None = None,
    ) -> Iterator[Sighting]:
        """The sightings that fit, in the order of their ids, from the id ``start`` on."""
        start = None if start is None else valid_id(start)
        for p in self.points.scan(where, limit=limit, start=start):
            yield Sighting.from_payload(p.id, p.payload)

    def spelled(self, kind: Literal["camera", "person"], name: str) -> str | None:
        """A name as it is written here, None where it is not: as it came, or else tidied, or else
        another that is tidied to the same.

        Older versions kept names as they came, so that several that look the same may be there.
        """
        where = Where(cameras=(name,)) if kind == "camera" else Where(persons=(name,))
        known = self.points.values(kind, where)
        for spelling in (name, tidy(name)):
            if spelling in known:
                return spelling
        return min(self._alike(kind, name), default=None)

    def _alike(self, key: str, name: str) -> list[str]:
        return [n for n in self.points.values(key, Where()) if tidy(n) == tidy(name)]

    def showing(self, picture: Path | str | bytes) -> list[Sighting]:
        """The sightings whose picture has these very bytes.

        Raises:
            ImageError: no picture.
        """
        return list(self.find(Where(pictures=(picture_name(_bytes(picture)),))))

    def picture(self, sighting: Sighting) -> Path | None:
        """The picture file of a sighting; None where it was added as a vector."""
        return self.pictures.path(sighting.picture) if sighting.picture else None

    def read_picture(self, sighting: Sighting) -> bytes:
        """The bytes of a sighting's picture.

        Raises:
            NotFoundError: it was added without one, or was forgotten since it was looked up.
            GalleryError: the file is lost.
        """
        if not sighting.picture:
            raise NotFoundError(f"sighting {sighting.id} was added without a picture.")
        try:
            return self.pictures.read(sighting.picture)
        except GalleryError:
            with self._changing:  # who is forgetting it deletes the picture first
                self.sighting(sighting.id)
            raise

    # --- forgetting and upkeep --------------------------------------------------------------------

    def forget(
        self,
        *,
        person: str | None = None,
        before: float | None = None,
        added_before: float | None = None,
        camera: str | None = None,
        ids: Sequence[str] = (),
        reason: str = "",
        erase: bool = True,
    ) -> Receipt:
        """Delete sightings for good: pictures, vectors, names and judgments.

        What is given must hold together: ``camera="3", before=t`` deletes what camera 3 saw before
        t.  A person's name also goes out of the rejections of other sightings.  A picture file
        stays only if a sighting outside the request shows the same bytes.  A sighting that nobody
        ever linked to the person is not known to show them, and stays.

        Args:
            person: the name, as it is written here or else as it is tidied.
            before: seconds since 1970 UTC; sightings without a time stay.
            added_before: the same, of when they came into the gallery, which is always known.
            camera: the camera, likewise.
            ids: sightings.
            reason: goes into the receipt.
            erase: also rewrite the files of the store so that nothing of it is left in them, and
                drop points that are not in use (of a :meth:`reembed` that was interrupted, which
                then begins anew); else, and on a server, :meth:`compact` does that later.

        Returns:
            A receipt; its ``erased`` is only true where nothing is left in any file, which it is
            not while :meth:`compact_aside` is under way.
        """
        where = Where(
            ids=tuple(ids),
            persons=(person,) if person is not None else (),
            cameras=(camera,) if camera is not None else (),
            before=before,
            added_before=added_before,
        )
        if not where:
            raise InputError("say what to forget: a person, a camera, a time or sightings.")
        with self._changing:
            # One spelling is meant, before anything changes; another is another's.
            if person is not None:
                person = self.spelled("person", person) or person
                where = replace(where, persons=(person,))
            if camera is not None:
                camera = self.spelled("camera", camera) or camera
                where = replace(where, cameras=(camera,))
            where = replace(where, verbatim=True)
            names, gone, feedback = Counter[str](), [], 0
            for s in self.find(where):
                gone.append(s.id)
                names[s.picture] += 1
                feedback += bool(s.person) + len(s.rejected)
            # Pictures first: killed in between, the sightings are still there to ask for again.
            names.pop("", None)
            kept = self._shown(names, but=set(gone))
            dead = [n for n in names if n not in kept]
            self.pictures.delete(dead)
            if person is not None:
                feedback += self._drop_rejections(person)
            if gone and self.points.erases:
                self._forgotten += 1
                self._set_unerased(True)
            for start in range(0, len(gone), 1000):
                self.points.delete(Where(ids=tuple(gone[start : start + 1000])))
            self.pictures.flush()
            self.points.flush()
            # Not while a copy of the points is compacted aside: it may hold what was deleted.
            erase = erase and self.points.erases and (bool(gone) or not self._erased())
            if erase and self._compacting.acquire(blocking=False):
                try:
                    with suppress(DiskError):  # forgotten it is; the receipt says not erased
                        self._erase()
                finally:
                    self._compacting.release()
            erased = self._erased()
        now = self.clock()
        key = f"{now!r} {sorted(gone)}"
        return Receipt(
            id=hashlib.sha256(key.encode()).hexdigest()[:16],
            time=format_time(round(now, 3)),
            asked=_asked(where),
            reason=reason,
            sightings=len(gone),
            vectors=len(gone),
            feedback=feedback,
            pictures=len(dead),
            picture_hashes=sorted(n[:64] for n in dead),
            kept_pictures=len(kept),
            erased=erased,
        )

    def compact(self) -> int:
        """Index new sightings, erase deleted ones from the files, remove what nothing refers to.

        Returns how many orphaned or half-written files and unused sets of points were removed.
        Waits for a :meth:`compact_aside` that is under way.
        """
        with self._compacting, self._changing:
            return self._remove_orphans() + self._erase()

    def compact_aside(self, stop: threading.Event, *, patience: float = 5.0) -> bool:
        """Index, erase and remove as :meth:`compact` does, while searches and changes go on.

        Another process works on a copy of the points, so that two and a half times their space must
        be free on the disk; changes wait while it is copied, and while what changed is brought
        over.  Points deleted meanwhile are left to the next time.

        Args:
            stop: gives up soon after it is set.
            patience: seconds that searches under way may still ask the old points.

        Returns:
            Whether it was done: not where ``stop`` was set, another compaction runs, or the store
            (a server) optimizes by itself.
        """
        home = self._home
        if not isinstance(home, EdgeHome) or not self._compacting.acquire(blocking=False):
            return False
        try:
            self._remove_orphans()
            with self._changing:
                self._remove_unused()
                self.flush()
                begun, old = self._forgotten, self._manifest["points"]
                new = _copy_name(old)
                home.copy(old, new)
                inner = self.points
                journal = Journal(inner)
                self.points = cast(Points, journal)
            target = None
            try:
                if optimize_aside(home.folder / new, self.model.dim, self.quantization, stop):
                    target = home.open(new, self.model.dim, self.quantization, create=False)
                    with self._changing:
                        bring_over(journal, target)
                        target.flush()
                        # Until the old points are gone from the disk, nothing is erased.
                        manifest = {**self._manifest, "points": new, "unerased": True}
                        home.write(manifest)
                        self.points, self._manifest = target, manifest
            finally:
                if self.points is not target:
                    with self._changing:
                        self.points = inner
                    if target is not None:
                        target.close()
                    home.drop(new)
            if target is None:
                return False
            stop.wait(patience)
            with self._changing:
                inner.close()
                home.drop(old)
                self._set_unerased(self._forgotten != begun or bool(self._stale()))
            return True
        finally:
            self._compacting.release()

    @property
    def unerased(self) -> bool:
        """Whether deleted points are still in files, until a compaction."""
        return bool(self._manifest["unerased"])

    def verify(self, *, progress: Callable[[int], None] = lambda _: None) -> Check:
        """Look at every sighting, vector and picture file."""
        missing, damaged, bad, foreign = [], [], [], []
        used: set[str] = set()
        count = 0
        with self._changing:
            for p in self.points.scan(Where(), vectors=True):
                s = Sighting.from_payload(p.id, p.payload)
                count += 1
                v = p.vector
                if v is None or v.shape != (self.model.dim,) or not abs((v @ v) - 1) < 1e-3:
                    bad.append(s.id)
                if s.model != self.model.short:
                    foreign.append(s.id)
                if s.picture and s.picture not in used:
                    if not self.pictures.path(s.picture).is_file():
                        missing.append(s.id)
                    elif not self.pictures.sound(s.picture):
                        damaged.append(s.id)
                used.add(s.picture)
                progress(1)
            orphans = [n for n in self.pictures.names() if n not in used]
            leftovers = [str(p) for p in self.pictures.leftovers()]
            return Check(count, missing, damaged, bad, foreign, orphans, leftovers, self._stale())

    def stats(self) -> Stats:
        """Figures of the gallery."""
        people = self.points.values("person", Where())
        cameras = self.points.values("camera", Where())
        count = len(self)
        unknown = count - sum(cameras.values())
        if unknown:
            cameras[UNKNOWN] = cameras.get(UNKNOWN, 0) + unknown
        ends = [self.points.extreme("time", last=last) for last in (False, True)]
        pictures, picture_bytes = self.pictures.totals()
        store = Path(self.place) / self._manifest["points"]
        return Stats(
            sightings=count,
            indexed=self.points.indexed(),
            named=sum(people.values()),
            people=len(people),
            cameras=cameras,
            first=format_time(ends[0].payload.get("time") if ends[0] else None),
            last=format_time(ends[1].payload.get("time") if ends[1] else None),
            pictures=pictures,
            picture_bytes=picture_bytes,
            store_bytes=disk_bytes(store),
            model=asdict(self.model),
            quantization=self.quantization,
            unerased=bool(self._manifest["unerased"]),
        )

    def reembed(self, encoder: Encoder, *, progress: Callable[[int], None] = lambda _: None) -> int:
        """Make all vectors again, by another model, from the stored pictures.

        Names, judgments and ids stay.  The old vectors are used until all new ones are there;
        interrupted, the same call goes on.  Returns how many pictures were embedded.

        Raises:
            GalleryError: some sightings have no picture (or it is damaged); nothing is changed.
        """
        model = Model.of(encoder)
        with self._compacting, self._changing:
            if model.hash == self.model.hash:
                raise GalleryError(
                    f"{self.place} is embedded with this model already ({model.short}); nothing to "
                    "do."
                )
            lacking = [
                p.id
                for p in self.points.scan(Where(), fields=("picture",))
                if not p.payload.get("picture")
                or not self.pictures.path(p.payload["picture"]).is_file()
            ]
            if lacking:
                raise GalleryError(
                    f"{counted(len(lacking), 'sighting')} of {self.place} "
                    f"{either(len(lacking), 'has', 'have')} no picture to embed again "
                    f"({', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}). Forget "
                    f"{either(len(lacking), 'it', 'them')} (crosscam gallery forget --id ...), or "
                    "add the pictures to a new gallery."
                )
            manifest = new_manifest(model, self.quantization, self.clock())
            target = self._home.open(manifest["points"], model.dim, self.quantization, create=True)

            def vectors(some: Sequence[Sighting]) -> Vectors:
                pictures = [decode(self.pictures.read(s.picture)) for s in some]
                return checked_vectors(encoder.embed(pictures), len(some), model.dim)

            try:
                # What was forgotten since an interrupted run is deleted there, but not erased.
                manifest["unerased"] = target.erases and target.count(Where()) > 0
                count = self._transfer(target, model, vectors, progress)
                target.flush()
                old = self._manifest["points"]
                self._home.write(manifest)
            except BaseException:
                target.close()
                raise
            self.points.close()
            self.points, self.model, self._manifest = target, model, manifest
            self.encoder = encoder
            self._home.drop(old)
        return count

    def copy_to(self, target: Gallery, *, progress: Callable[[int], None] = lambda _: None) -> int:
        """Copy all sightings, with pictures, vectors, names and judgments, into another gallery.

        The target must have the same model.  What it has already is brought up to date;
        interrupted, the same call goes on.  Sightings that only the target has stay.  Returns how
        many were new.
        """
        require_model(target.model, self.model, target.place)
        with self._changing, target._changing:

            def vectors(some: Sequence[Sighting]) -> Vectors:
                for s in some:
                    if s.picture:
                        target.pictures.put(s.picture, self.pictures.read(s.picture))
                ids = [s.id for s in some]
                stored = self.points.get(ids, payload=False, vectors=True)
                found = {p.id: p.vector for p in stored}
                rows = [found[i] for i in ids]
                return np.stack([r for r in rows if r is not None])

            count = self._transfer(target.points, self.model, vectors, progress, prune=False)
            target.flush()
        return count

    def _transfer(
        self,
        target: Points,
        model: Model,
        vectors: Callable[[Sequence[Sighting]], Vectors],
        progress: Callable[[int], None],
        *,
        prune: bool = True,
    ) -> int:
        """Bring ``target`` to this gallery's sightings; what it has is only given its payload."""
        new = 0
        for some in _batches(self.find(), _BATCH):
            want = {s.id: replace(s, model=model.short).payload() for s in some}
            have = {p.id: dict(p.payload) for p in target.get(list(want))}
            target.replace_payloads({i: want[i] for i in have if have[i] != want[i]})
            fresh = [s for s in some if s.id not in have]
            if fresh:
                target.add([s.id for s in fresh], vectors(fresh), [want[s.id] for s in fresh])
            new += len(fresh)
            progress(len(some))
        if prune and target.count(Where()) != len(self):
            here = {p.id for p in self.points.scan(Where(), fields=())}
            extra = [p.id for p in target.scan(Where(), fields=()) if p.id not in here]
            for start in range(0, len(extra), 1000):
                target.delete(Where(ids=tuple(extra[start : start + 1000])))
        return new

    # --- inside -----------------------------------------------------------------------------------

    def require_encoder(self, purpose: str) -> Encoder:
        """The encoder, or an ``InputError`` that says what it is needed for."""
        if self.encoder is None:
            raise InputError(f"to {purpose}, the gallery needs its model: give --model.")
        return self.encoder

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold off other threads' changes."""
        with self._changing:
            yield

    def _drop_rejections(self, person: str) -> int:
        """Take a name out of all rejections; returns of how many."""
        # In all spellings but those that are somebody else's.
        others = {n for n in self._alike("person", person) if n != person}
        dropped = {person, *self._alike("rejected", person)} - others
        touched = [
            replace(s, rejected=tuple(r for r in s.rejected if r not in dropped))
            for s in self.find(Where(rejected_for=tuple(dropped), verbatim=True))
        ]
        self.points.replace_payloads({s.id: s.payload() for s in touched})
        return len(touched)

    def _shown(self, names: Iterable[str], *, but: set[str]) -> set[str]:
        """Those of the pictures that some sighting shows, ``but`` these left out."""
        shown: set[str] = set()
        for some in _batches(names, 500):
            found = self.points.scan(Where(pictures=tuple(some)), fields=("picture",))
            shown |= {p.payload["picture"] for p in found if p.id not in but}
        return shown

    def _remove_orphans(self) -> int:
        """Remove pictures that no sighting shows; returns how many.

        It looks while others add, whose pictures are in place before their points: what seems
        unused is looked at again while they wait.
        """
        names = list(self.pictures.names())
        used = self._pictures_used()
        seem = [n for n in names if n not in used]
        with self._changing:
            shown = self._shown(seem, but=set())
            removed = self.pictures.delete(n for n in seem if n not in shown)
            self.pictures.flush()
        return removed

    def _remove_unused(self) -> int:
        """Remove half-written files and sets of points not in use; returns how many.

        Nobody may be adding or compacting.
        """
        files = self.pictures.leftovers()
        for path in files:
            path.unlink(missing_ok=True)
        count = len(files)
        for name in self._stale():
            with suppress(OSError):  # see _copy_name; what stays is not said to be erased
                self._home.drop(name)
                count += 1
        return count

    def _pictures_used(self) -> set[str]:
        return {
            p.payload.get("picture", "") for p in self.points.scan(Where(), fields=("picture",))
        }

    def _stale(self) -> list[str]:
        return [n for n in self._home.names() if n != self._manifest["points"]]

    def _set_unerased(self, value: bool) -> None:
        if self._manifest["unerased"] != value:
            self._manifest["unerased"] = value
            self._home.write(self._manifest)

    def _erase(self) -> int:
        """Leave nothing of what was deleted in any file; returns how many were removed.

        Nobody may be adding or compacting.
        """
        removed = self._remove_unused()
        self.points.optimize()
        self._set_unerased(bool(self._stale()))
        return removed

    def _erased(self) -> bool:
        return self.points.erases and not self._manifest["unerased"] and not self._stale()


def _asked(where: Where) -> dict[str, Any]:
    """What was to be forgotten, as a receipt says it."""
    said = {
        "person": where.persons[0] if where.persons else None,
        "camera": where.cameras[0] if where.cameras else None,
        "before": None if where.before is None else format_time(where.before),
        "added before": None if where.added_before is None else format_time(where.added_before),
        "sightings": len(where.ids) or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _copy_name(points: str) -> str:
    """A new name for a copy of a set of points.

    It is never used again: after a kill, the process that optimized the last copy may still be
    writing to it.
    """
    return f"{points.partition('.')[0]}.{secrets.token_hex(4)}"


def _require_gallery(folder: Path, *, creating: bool) -> None:
    if folder.is_file():
        raise GalleryError(f"{folder} is a file; a gallery is a folder.")
    if (folder / "gallery.json").is_file():
        return
    if not creating:
        raise GalleryError(
            f"{folder} is not a gallery (it has no gallery.json). Make one: "
            f"crosscam gallery add PICTURES --gallery {folder} --model MODEL."
        )
    there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    # Another process may be making a gallery here right now: then the lock says so.
    own = re.compile(r"lock|lock\.holder|pictures|points-.*|\..*\.writing")
    strange = [name for name in there if not own.fullmatch(name)]
    if strange:
        raise GalleryError(
            f"{folder} is not a gallery and holds other files ({', '.join(sorted(strange)[:3])}). "
            "Give an empty or a new folder."
        )


def _picture_folder(place: str | Path, pictures: Path | None) -> Path:
    if pictures is None:
        raise InputError(
            f"a gallery on a server ({place}) keeps its pictures in a folder that all who use it "
            "can reach: give --pictures FOLDER."
        )
    return pictures


def _bytes(picture: Path | str | bytes | npt.NDArray[np.uint8]) -> bytes:
    if isinstance(picture, np.ndarray):
        return encode(decode(picture))  # which says what is wrong with an array
    if isinstance(picture, bytes):
        data = picture
    else:
        picture = Path(picture)
        try:
            if picture.stat().st_size > MAX_BYTES:
                raise ImageError(f"more than {MAX_BYTES:,} bytes are not read.")
            data = picture.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror or error}).") from error
    if not data:
        raise ImageError("is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise ImageError(f"more than {MAX_BYTES:,} bytes are not read.")
    return data


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
