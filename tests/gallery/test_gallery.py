"""What a gallery promises, in a folder and on a server alike."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from PIL import Image
from toy_gallery import Places, ToyEncoder, crowd

from crosscam.errors import GalleryError, ImageError, InputError
from crosscam.gallery import Item, Sighting, Where
from crosscam.gallery.people import People
from crosscam.gallery.sighting import sighting_id
from crosscam.retrieval import RerankSettings, rerank


def vectors_of(gallery, ids):
    found = {p.id: p.vector for p in gallery.points.get(ids, vectors=True)}
    return np.stack([found[i] for i in ids])


# --- adding ---------------------------------------------------------------------------------------


def test_what_is_added_is_kept_as_it_was_given(places: Places, encoder: ToyEncoder) -> None:
    data = (places.root / "x.png", toy.person(1, 1, 1))
    Image.fromarray(data[1]).save(data[0])
    item = Item(data[0], camera="gate", time=12.5, frame="s1:7", track="t", source="list.csv",
                box=(1.0, 2.0, 3.5, 4.0), quality=0.25, person=" Anna  B ")  # fmt: skip
    with places.create(encoder) as gallery:
        gallery.clock = lambda: 1234.5
        added = gallery.add([item])
    digest = hashlib.sha256(data[0].read_bytes()).hexdigest()
    with places.open() as gallery:
        (s,) = gallery.find()
        assert s == Sighting(
            id=added.ids[0], picture=f"{digest}.png", camera="gate", time=12.5, frame="s1:7",
            track="t", source="list.csv", box=(1.0, 2.0, 3.5, 4.0), quality=0.25,
            added=1234.5, person="Anna B", how="given", model=encoder.hash[:16],
        )  # fmt: skip
        assert s.id == sighting_id(digest, "gate", 12.5, "s1:7")
        assert gallery.picture(s).read_bytes() == data[0].read_bytes()
        expected = encoder.embed([data[1]])
        np.testing.assert_array_equal(vectors_of(gallery, [s.id]), expected)


def test_adding_again_changes_nothing_and_embeds_nothing(
    places: Places, encoder: ToyEncoder
) -> None:
    items = crowd(3)
    with places.create(encoder) as gallery:
        first = gallery.add(items, batch=5)
        gallery.people.enroll("Anna", first.ids[:2])
        calls = encoder.calls
        again = gallery.add(items, batch=7)
        assert (first.new, first.present, again.new, again.present) == (18, 0, 0, 18)
        assert again.ids == first.ids
        assert encoder.calls == calls
        assert gallery.people.names() == {"Anna": 2}
        assert len(gallery) == 18


def test_one_picture_seen_twice_is_two_sightings_and_one_file(
    places: Places, encoder: ToyEncoder
) -> None:
    picture = toy.person(0, 0, 0)
    with places.create(encoder) as gallery:
        added = gallery.add(
            [Item(picture, time=1.0), Item(picture, time=2.0), Item(picture, time=2.0)]
        )
        assert (added.new, added.present) == (2, 1)
        assert added.ids[1] == added.ids[2]
        assert len(list(gallery.pictures.names())) == 1
        gallery.forget(ids=added.ids[:1], erase=False)
        assert len(list(gallery.pictures.names())) == 1
        gallery.forget(ids=added.ids[1:2], erase=False)
        assert len(list(gallery.pictures.names())) == 0


def test_broken_pictures_are_skipped_and_named(
    places: Places, encoder: ToyEncoder, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(toy.person(0, 0, 0)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-300])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<html>not found</html>")
    names = ["cut.jpg", "empty.jpg", "whole.jpg", "page.jpg", "gone.jpg"]
    with places.create(encoder) as gallery:
        added = gallery.add([Item(tmp_path / n) for n in names])
        assert added.new == len(gallery) == 1
        assert [bool(i) for i in added.ids] == [False, False, True, False, False]
        broken = {Path(n).name: why for n, why in added.broken}
        assert set(broken) == {"cut.jpg", "empty.jpg", "page.jpg", "gone.jpg"}
        assert "truncated" in broken["cut.jpg"]
        assert "known format" in broken["page.jpg"]
        assert len(list(gallery.pictures.names())) == 1


def test_vectors_of_another_model_are_refused(places: Places, encoder: ToyEncoder) -> None:
    places.create(encoder).close()
    with pytest.raises(GalleryError, match=r"0000000000000000.*0101010101010101.*reembed"):
        places.open(ToyEncoder(seed=1))
    other = ToyEncoder()
    other.dim = 64
    with pytest.raises(GalleryError, match=r"48 .*64"):
        places.create(other)
    with places.open() as gallery:
        with pytest.raises(InputError, match=r"give --model"):
            gallery.add(crowd(1))
        with pytest.raises(GalleryError, match=r"\[1, 48\].*\[1, 47\]"):
            gallery.add_vectors(np.ones((1, 47)), [Sighting("")])
        with pytest.raises(GalleryError, match=r"unit length, but number 1 has length 2"):
            gallery.add_vectors(np.eye(2, 48) * [[1], [2]], [Sighting(""), Sighting("")])
        with pytest.raises(GalleryError, match=r"unit length, but number 0"):
            gallery.add_vectors(np.full((1, 48), np.nan), [Sighting("")])


def test_sightings_and_vectors_are_kept_tidy_alike(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        gallery.add([Item(toy.person(1, 1, 1), camera="  3 ")])
        gallery.add_vectors(np.eye(1, 48), [Sighting("", camera="3\n", time=5, person=" Anna")])
        assert {(s.camera, s.person) for s in gallery.find()} == {("3", ""), ("3", "Anna")}
        assert gallery.stats().cameras == {"3": 2}
        for wrong in ({"camera": "3\x1b[31m"}, {"camera": "unknown"}, {"time": float("nan")}):
            with pytest.raises(InputError):
                gallery.add_vectors(np.eye(2, 48)[1:], [Sighting("", **wrong)])
        assert len(gallery) == 2


def test_an_array_that_is_no_picture_is_skipped_and_named(
    places: Places, encoder: ToyEncoder
) -> None:
    with places.create(encoder) as gallery:
        added = gallery.add([Item(np.zeros((4, 4, 3))), Item(toy.person(1, 1, 1))])
        assert added.new == 1
        assert added.broken[0][1].startswith("an array must be uint8")


def test_ids_may_be_written_in_any_case(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        loud = [i.upper() for i in ids]
        assert gallery.sighting(loud[0]).id == ids[0]
        assert [s.id for s in gallery.find(Where(ids=tuple(loud[:2])))] == sorted(ids[:2])
        assert len(gallery.people.enroll("Anna", [loud[0], ids[0], loud[1]])) == 2
        gallery.people.split("Anna", [loud[1]], "Bert")
        assert gallery.people.names() == {"Anna": 1, "Bert": 1}
        found = gallery.search(sightings=[loud[0]], person="Anna", top=10)
        assert found.template == 1
        assert ids[0] not in {h.sighting.id for h in found}
        assert gallery.forget(ids=loud[:1], erase=False).sightings == 1


def test_two_spellings_of_a_name_are_one_person(places: Places, encoder: ToyEncoder) -> None:
    zoe, same = "Zo\N{LATIN SMALL LETTER E WITH ACUTE}", "Zoe\N{COMBINING ACUTE ACCENT}"
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        people = gallery.people
        people.enroll(same, ids[:2])
        people.confirm(zoe, ids[2:3])
        assert people.names() == {zoe: 3}
        assert people.get(same).name == zoe
        people.reject(same, ids[5:6])
        assert gallery.search(person=same, top=9).template == 3
        people.split(same, ids[:1], "Anna")
        people.rename(same, "Chloe\N{COMBINING DIAERESIS}")
        people.rename("Chloe\N{COMBINING DIAERESIS}", zoe)
        people.reject(zoe, ids[4:5])
        assert gallery.forget(person=same, erase=False).sightings == 2
        assert not any(zoe in (s.person, *s.rejected) for s in gallery.find())


def test_names_that_were_kept_untidy_are_still_found(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        (id,) = gallery.add([Item(toy.person(1, 1, 1), camera="3", person="Anna")]).ids
        old = dataclasses.replace(gallery.sighting(id), camera=" 3", person=" Anna")
        gallery.points.replace_payloads({id: old.payload()})
        assert [s.id for s in gallery.find(Where(cameras=(" 3",), persons=(" Anna",)))] == [id]
        assert gallery.people.rename(" Anna", "Anna") == 1
        assert gallery.people.names() == {"Anna": 1}


def test_what_was_added_under_an_untidy_camera_is_not_added_again(
    places: Places, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"picture": toy.person(p, 1, 1), "camera": "gate  3", "time": 5.0} for p in (1, 2)]
    with places.create(encoder) as gallery:
        with monkeypatch.context() as patch:  # as older versions did
            patch.setattr("crosscam.gallery.gallery.checked_facts", lambda item: {})
            old = gallery.add([Item(**item) for item in items]).ids
        added = gallery.add([Item(**item) for item in items])
        assert (added.ids, added.new, added.present) == (old, 0, 2)
        tidy = gallery.add([Item(**{**item, "camera": "gate 3"}) for item in items])
        assert tidy.new == 2  # it cannot be known that it is the same camera
        assert gallery.add([Item(**item) for item in items]).ids == tidy.ids


def test_what_is_done_to_an_untidy_name_leaves_the_tidy_one_alone(
    places: Places, encoder: ToyEncoder
) -> None:
    with places.create(encoder) as gallery:
        items = [Item(toy.person(p, 1, 1), camera="3", person="Anna") for p in range(1, 6)]
        twin, *ids = gallery.add(items).ids
        odd = [dataclasses.replace(gallery.sighting(i), camera=" 3", person=" Anna") for i in ids]
        gallery.points.replace_payloads({s.id: s.payload() for s in odd})
        for name in ("Anna", " Anna"):
            gallery.people.reject(name, ids[3:])
        left = gallery.sighting(twin)
        assert (gallery.people.get(" Anna").sightings, gallery.people.get("Anna").sightings) == (
            3,
            1,
        )
        assert gallery.people.rename(" Anna", "Bert") == 3
        assert gallery.sighting(ids[3]).rejected == ("Anna", "Bert")
        gallery.people._move("Bert", " Anna")
        gallery.points.update(Where(persons=(" Anna",)), {"track": "7"})
        gallery.points.delete(Where(persons=(" Anna",), tracks=("8",)))
        assert gallery.forget(person=" Anna", erase=False).sightings == 3
        assert (gallery.sighting(ids[3]).rejected, gallery.sighting(twin)) == (("Anna",), left)
        assert gallery.forget(camera=" 3", erase=False).sightings == 1
        assert [s.id for s in gallery.find()] == [twin]
        assert gallery.forget(camera=" 3", erase=False).sightings == 1  # now it means the tidy one


def test_a_name_kept_in_another_unicode_form_stays_one_person(
    places: Places, encoder: ToyEncoder
) -> None:
    nfc, nfd = "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}", "Zoe\N{COMBINING DIAERESIS}"
    with places.create(encoder) as gallery:
        ids = gallery.add([Item(toy.person(p, 1, 1), camera="3") for p in range(1, 7)]).ids
        gallery.points.update(Where(ids=tuple(ids[:1])), {"person": nfd, "how": "enrolled"})
        people = gallery.people
        for name in (nfc, nfd):
            assert people.get(name).name == people.called(name) == nfd
            people.confirm(name, ids[:2])
            people.enroll(name, ids[2:3])
            people.reject(name, ids[5:])
        people.enroll("Bert", ids[3:4])
        with pytest.raises(InputError, match="merge makes one"):
            people.rename("Bert", nfc)
        assert people.merge(["Bert"], nfc) == 1
        gallery.add([Item(toy.person(7, 1, 1), camera="4", person=nfc)])
        gallery.add_vectors(np.eye(1, 48), [Sighting("", person=nfc)])
        assert people.names() == {nfd: 6}
        assert gallery.search(person=nfc, include_known=True, top=9).hits
        people.split(nfd, ids[:1], "Carla")
        # A rejection in another spelling than the person's goes with the person.
        s = dataclasses.replace(gallery.sighting(ids[5]), rejected=(nfc, "Xaver"))
        gallery.points.replace_payloads({s.id: s.payload()})
        assert gallery.forget(person=nfc, erase=False).sightings == 5
        assert gallery.sighting(ids[5]).rejected == ("Xaver",)
        # One name that is only written anew is free.
        gallery.points.update(Where(ids=tuple(ids[:1])), {"person": nfd})
        assert people.rename(nfd, nfc) == 1
        assert people.names() == {nfc: 1}


def test_a_missing_gallery_is_an_error_when_it_is_read(places: Places) -> None:
    with pytest.raises(GalleryError, match=r"gallery add PICTURES"):
        places.open()


# --- searching ------------------------------------------------------------------------------------


def reference(vectors, sightings, query, keep):
    """Scores by a loop over the definition, best first, ties by id."""
    scored = [
        (float(np.dot(v, query)), s) for v, s in zip(vectors, sightings, strict=True) if keep(s)
    ]
    return sorted(scored, key=lambda x: (-x[0], x[1].id))


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        (Where(), lambda s: True),
        (Where(cameras=("1",)), lambda s: s.camera == "1"),
        (Where(cameras=("0", "2"), before=2100), lambda s: s.camera != "1" and s.time < 2100),
        (Where(not_cameras=("0",), after=1000, before=3001),
         lambda s: s.camera != "0" and 1000 <= s.time < 3001),
        (Where(tracks=("2-1",)), lambda s: s.track == "2-1"),
        (Where(persons=("Anna", "Bert")), lambda s: s.person in ("Anna", "Bert")),
        (Where(not_persons=("Anna",)), lambda s: s.person != "Anna"),
        (Where(not_rejected_for=("Anna",)), lambda s: "Anna" not in s.rejected),
    ],
    ids=["all", "camera", "cameras-before", "not-camera-between", "track", "people", "not-person",
         "not-rejected"],
)  # fmt: skip
def test_search_ranks_as_a_loop_over_all_sightings(
    places: Places, encoder: ToyEncoder, where: Where, keep
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        gallery.people.enroll("Anna", ids[:3], same_frame=True)
        gallery.people.enroll("Bert", ids[6:8])
        gallery.people.reject("Anna", ids[12:15])
        sightings = gallery.sightings(ids)
        query = encoder.embed([toy.person(2, 1, 9)])[0]
        expected = reference(vectors_of(gallery, ids), sightings, query, keep)[:7]
        for exact in (True, False):
            found = gallery.search(vectors=query[None], top=7, where=where, exact=exact)
            assert [h.sighting for h in found] == [s for _, s in expected]
            np.testing.assert_allclose(
                [h.score for h in found], [x for x, _ in expected], atol=2e-6
            )


def test_a_picture_an_id_and_bytes_ask_the_same(
    places: Places, encoder: ToyEncoder, tmp_path: Path
) -> None:
    Image.fromarray(toy.person(1, 0, 0)).save(tmp_path / "q.png")
    with places.create(encoder) as gallery:
        ids = gallery.add([*crowd(4), Item(tmp_path / "q.png")]).ids
        by_file = gallery.search(pictures=[tmp_path / "q.png"], top=6)
        by_bytes = gallery.search(pictures=[(tmp_path / "q.png").read_bytes()], top=6)
        by_id = gallery.search(sightings=[ids[-1]], top=5)
        assert by_file.hits[0].sighting.id == ids[-1]
        assert by_file.hits[0].copy_of == "query"
        assert [h.sighting.id for h in by_file] == [h.sighting.id for h in by_bytes]
        # A query sighting is no result of its own search.
        assert [h.sighting.id for h in by_id] == [h.sighting.id for h in by_file][1:]
        with pytest.raises(ImageError, match="known format"):
            gallery.search(pictures=[b"junk"])


def test_several_pictures_are_pooled_by_mean_or_by_maximum(
    places: Places, encoder: ToyEncoder
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        vectors = vectors_of(gallery, ids)
        queries = encoder.embed([toy.person(2, 0, 8), toy.person(2, 2, 9)])
        mean = queries.astype(np.float64).mean(0)
        mean /= np.linalg.norm(mean)
        for pool, score in (("mean", vectors @ mean), ("max", (vectors @ queries.T).max(1))):
            found = gallery.search(vectors=queries, top=5, pool=pool)
            order = np.argsort(-score, kind="stable")[:5]
            assert [h.sighting.id for h in found] == [ids[i] for i in order]
            np.testing.assert_allclose([h.score for h in found], score[order], atol=2e-6)
            assert found.template == 2


def test_an_empty_gallery_is_discarded_and_no_other(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder, "b") as other:
        other.add(crowd(1))
        with pytest.raises(GalleryError, match="holds 6 sightings"):
            other.discard()
    with places.create(encoder) as gallery:
        assert gallery.made
        gallery.discard()
    with places.create(ToyEncoder(1)) as gallery:  # of another model
        assert gallery.made
    with places.open(name="b") as other:
        assert (len(other), other.made) == (6, False)


def test_own_cameras_are_left_out(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        found = gallery.search(sightings=[ids[0], ids[2]], top=50, exclude_own_cameras=True)
        assert len(found) == 10
        assert {h.sighting.camera for h in found} == {"2"}
        found = gallery.search(pictures=[toy.person(0, 1, 5)], cameras=["1"], top=50,
                               exclude_own_cameras=True)  # fmt: skip
        assert {h.sighting.camera for h in found} == {"0", "2"}


def test_results_are_grouped_by_their_best(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        gallery.people.enroll("Anna", ids[:6])
        query = toy.person(3, 1, 7)
        plain = gallery.search(pictures=[query], top=30).hits
        for group, key in (("track", lambda s: s.track), ("person", lambda s: s.person or s.track)):
            seen: dict[str, list[str]] = {}
            for h in plain:
                seen.setdefault(key(h.sighting), []).append(h.sighting.id)
            found = gallery.search(pictures=[query], top=30, group=group)
            assert [h.sighting.id for h in found] == [i[0] for i in seen.values()]
            assert [h.count for h in found] == [len(i) for i in seen.values()]
        assert len(gallery.search(pictures=[query], top=3, group="track")) == 3


def test_nobody_is_found_twice_in_one_frame(places: Places, encoder: ToyEncoder) -> None:
    # Persons 0..3 stand side by side before camera 7, at two instants.
    items = [
        Item(toy.person(p, 7, t), camera="7", time=float(t), source=f"{p}") for t in (1, 2)
        for p in range(4)
    ]  # fmt: skip
    with places.create(encoder) as gallery:
        ids = gallery.add(items).ids
        query = toy.person(0, 7, 3)
        plain = gallery.search(pictures=[query], top=8)
        once = gallery.search(pictures=[query], top=8, once_per_frame=True)
        best = {}
        for h in plain:
            best.setdefault(h.sighting.time, h.sighting.id)
        assert [h.sighting.id for h in once] == list(best.values())
        assert [h.sighting.source for h in once] == ["0", "0"]
        # The frame of a query sighting has none of the person's other sightings.
        from_one = gallery.search(sightings=[ids[0]], top=8, once_per_frame=True)
        assert [h.sighting.time for h in from_one] == [2.0]


def test_near_copies_are_marked_or_left_out(places: Places, encoder: ToyEncoder) -> None:
    first, other = toy.person(0, 0, 0), toy.person(0, 0, 1)
    bit = other.copy()
    bit[0, 0] ^= 1
    with places.create(encoder) as gallery:
        ids = gallery.add([Item(first), Item(other), Item(bit), Item(toy.person(3, 0, 0))]).ids
        found = gallery.search(pictures=[first], top=4)
        marks = {h.sighting.id: h.copy_of for h in found}
        assert marks[ids[0]] == "query"
        assert {marks[ids[1]], marks[ids[2]]} == {"", next(i for i in ids[1:3] if not marks[i])}
        assert marks[ids[3]] == ""
        assert any("1 of 4 results is a near-copy of the query" in n for n in found.notes)
        assert any("1 of 4 results is a near-copy of a better one" in n for n in found.notes)
        distinct = gallery.search(pictures=[first], top=4, distinct=True)
        assert len(distinct) == 2
        assert not any(h.copy_of for h in distinct)


def test_reranking_orders_the_best_by_reciprocal_neighbors(
    places: Places, encoder: ToyEncoder
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(8)).ids
        query = encoder.embed([toy.person(5, 0, 9)])
        plain = gallery.search(vectors=query, top=20)
        found = gallery.search(vectors=query, top=20, rerank_top=12)
        head = [h.sighting.id for h in plain][:12]
        expected = rerank(query, vectors_of(gallery, head), RerankSettings(k1=11, k2=6))[0]
        order = np.argsort(expected, kind="stable")
        assert [h.sighting.id for h in found][:12] == [head[i] for i in order]
        np.testing.assert_allclose([h.reranked for h in found][:12], expected[order], atol=1e-5)
        assert [h.sighting.id for h in found][12:] == [h.sighting.id for h in plain][12:]
        assert found.hits[12].reranked is None
        assert set(ids) >= set(head)


def test_results_say_which_parts_matched(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(3)).ids
        query = encoder.embed([toy.person(1, 1, 9)])[0]
        for h in gallery.search(vectors=query[None], top=4):
            v = vectors_of(gallery, [h.sighting.id])[0]
            for name, (a, b) in encoder.parts.items():
                cosine = v[a:b] @ query[a:b] / np.linalg.norm(v[a:b]) / np.linalg.norm(query[a:b])
                assert h.parts[name] == pytest.approx(cosine, abs=1e-5)
        assert len(ids) == 18


def test_bad_questions_are_refused(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        gallery.add(crowd(1))
        unknown = "1b4e28ba-2fa1-51d2-883f-0016d3cca427"
        for asked, message in (
            ({}, "nothing to search for"),
            ({"sightings": ["nonsense"]}, "not the id of a sighting"),
            ({"sightings": [unknown]}, f"no sighting {unknown}"),
            ({"person": "Nobody"}, "nobody in the gallery is called 'Nobody'"),
            ({"vectors": np.eye(1, 48), "top": 0}, r"top must be a whole number in 1\.\.10000"),
            ({"vectors": np.eye(1, 48), "pool": "sum"}, "pool must be mean or max"),
            ({"vectors": np.array([[1.0] + [0.0] * 47, [-1.0] + [0.0] * 47])}, "cancel out"),
        ):
            with pytest.raises(InputError, match=message):
                gallery.search(**asked)
        with pytest.raises(InputError, match="start before its end"):
            Where(after=2, before=1)


def test_who_is_being_forgotten_is_nobody(
    places: Places, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        gallery.people.enroll("Anna", ids[:2])
        look = gallery.points.get

        def too_late(asked: Any, **how: Any) -> Any:
            """Between the sightings and their vectors, they are forgotten."""
            if how.get("vectors"):
                gallery.forget(ids=asked, erase=False)
            return look(asked, **how)

        monkeypatch.setattr(gallery.points, "get", too_late)
        with pytest.raises(InputError, match="nobody in the gallery is called 'Anna'"):
            gallery.search(person="Anna")
        with pytest.raises(InputError, match=f"no sighting {ids[2]}"):
            gallery.search(sightings=ids[2:3])


# --- people ---------------------------------------------------------------------------------------


def test_feedback_changes_later_searches(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        people = gallery.people
        people.enroll("Anna", ids[0:2])
        before = gallery.search(person="Anna", top=30)
        assert before.template == 2
        assert {h.sighting.id for h in before} == set(ids[2:])
        people.reject("Anna", [before.hits[0].sighting.id])
        people.confirm("Anna", [before.hits[1].sighting.id])
        after = gallery.search(person="Anna", top=30)
        assert after.template == 3
        gone = {h.sighting.id for h in before.hits[:2]}
        assert {h.sighting.id for h in after} == set(ids[2:]) - gone
        # The template is the mean of the three vectors.
        template = vectors_of(gallery, [*ids[:2], before.hits[1].sighting.id]).mean(0)
        template /= np.linalg.norm(template)
        best = after.hits[0]
        assert best.score == pytest.approx(
            float(template @ vectors_of(gallery, [best.sighting.id])[0]), abs=1e-5
        )
        known = gallery.search(person="Anna", top=30, include_known=True)
        assert {h.sighting.id for h in known} == set(ids) - {before.hits[0].sighting.id}
        # Confirming takes a rejection back, and the other way around.
        people.confirm("Anna", [before.hits[0].sighting.id])
        assert gallery.sighting(before.hits[0].sighting.id).rejected == ()
        people.reject("Anna", [ids[0]])
        assert gallery.sighting(ids[0]).person == ""
    with places.open() as gallery:  # all of it is kept
        assert gallery.people.names() == {"Anna": 3}
        person = gallery.people.get("Anna")
        assert (person.sightings, person.confirmed, person.rejected) == (3, 2, 1)


def test_people_are_merged_split_renamed_and_released(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        people = gallery.people
        people.enroll("A", ids[0:3])
        people.enroll("B", ids[6:8])
        people.reject("B", [ids[20]])
        assert people.merge(["A", "B"], into="C") == 5
        assert people.names() == {"C": 5}
        assert gallery.sighting(ids[20]).rejected == ("C",)
        people.split("C", ids[6:8], "B")
        assert people.names() == {"B": 2, "C": 3}
        assert gallery.sighting(ids[6]).rejected == ("C",)
        assert people.rename("B", "Berta") == 2
        assert people.names() == {"Berta": 2, "C": 3}
        people.release([ids[0]])
        assert people.names() == {"Berta": 2, "C": 2}
        # A split that is merged again leaves nobody rejected for themselves.
        people.merge(["Berta"], into="C")
        assert gallery.sighting(ids[6]) == dataclasses.replace(
            gallery.sighting(ids[6]), person="C", rejected=()
        )
        assert [s.time for s in people.sightings("C")] == sorted(
            s.time for s in people.sightings("C")
        )


def test_wrong_words_about_people_are_refused(places: Places, encoder: ToyEncoder) -> None:
    frame = [Item(toy.person(p, 1, 1), camera="1", frame="f") for p in range(2)]
    with places.create(encoder) as gallery:
        ids = gallery.add([*crowd(2), *frame]).ids
        people = gallery.people
        people.enroll("Anna", ids[:2])
        people.enroll("Bert", ids[3:6])
        for call, message in (
            (lambda: people.enroll("Bert", ids[1:3]), "carries the name 'Anna' already"),
            (lambda: people.enroll("  ", ids[6:7]), "1 to 200 printable characters"),
            (lambda: people.enroll("Ann\x00a", ids[6:7]), "printable"),
            (lambda: people.enroll("Cora", []), "at least one sighting"),
            (lambda: people.enroll("Cora", ids[-2:]), "twice in one frame"),
            (lambda: people.reject("Ana", ids[6:7]), "Did you mean Anna"),
            (lambda: people.rename("Anna", "Bert"), "merge makes one person"),
            (lambda: people.rename("Nobody", "X"), "nobody in the gallery"),
            (lambda: people.merge(["Anna"], into="Cora"), "rename"),
            (lambda: people.split("Bert", ids[3:6], "X"), "takes some of the 3"),
            (lambda: people.split("Bert", ids[:1], "X"), "does not carry the name 'Bert'"),
            (lambda: people.split("Bert", ids[3:4], "Bert"), "another name"),
            (lambda: people.get("Nobody"), "nobody in the gallery"),
        ):
            with pytest.raises(InputError, match=message):
                call()
        assert people.names() == {"Anna": 2, "Bert": 3}
        people.enroll("Cora", ids[-2:], same_frame=True)
        assert people.names() == {"Anna": 2, "Bert": 3, "Cora": 2}


# --- forgetting and upkeep ------------------------------------------------------------------------


def test_a_person_is_forgotten_everywhere(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd()).ids
        gallery.people.enroll("Anna", ids[0:3])
        gallery.people.confirm("Anna", ids[4:5])
        gallery.people.reject("Anna", ids[10:12])
        names = [gallery.sighting(i).picture for i in [*ids[0:3], ids[4]]]
        receipt = gallery.forget(person="Anna", reason="she asked")
        assert (receipt.sightings, receipt.vectors, receipt.pictures) == (4, 4, 4)
        assert receipt.feedback == 6  # four names, two rejections
        assert receipt.picture_hashes == sorted(n[:64] for n in names)
        assert receipt.asked == {"person": "Anna"}
        assert receipt.reason == "she asked"
        assert receipt.erased is (places.form == "folder")
        assert not any(gallery.pictures.path(n).exists() for n in names)
        left = list(gallery.find())
        assert {s.id for s in left} == set(ids) - {*ids[0:3], ids[4]}
        assert not any("Anna" in (s.person, *s.rejected) for s in left)
        assert gallery.people.names() == {}
        assert gallery.verify().sound


def test_forgetting_by_time_and_camera(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add([*crowd(), Item(toy.person(9, 9, 9), camera="1")]).ids
        receipt = gallery.forget(camera="1", before=2101.0, erase=False)
        # Camera 1 at 100, 101, 1100, 1101, 2100; 2101 is not before, no time is in no range.
        assert receipt.sightings == 5
        assert receipt.asked == {"camera": "1", "before": "1970-01-01T00:35:01Z"}
        assert ids[-1] in {s.id for s in gallery.find(Where(cameras=("1",)))}
        assert len(gallery) == 26
        assert gallery.forget(before=1e9, erase=False).sightings == 25
        assert [s.id for s in gallery.find()] == [ids[-1]]
        assert gallery.forget(person="nobody", erase=False).sightings == 0
        with pytest.raises(InputError, match="say what to forget"):
            gallery.forget()


def test_forgetting_by_when_sightings_came(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        gallery.clock = lambda: 1000.0
        gallery.add([Item(toy.person(1, 1, 1)), Item(toy.person(2, 1, 1), time=9e9)])
        gallery.clock = lambda: 2000.0
        (stays,) = gallery.add([Item(toy.person(3, 1, 1), time=5.0)]).ids
        assert gallery.forget(added_before=1000.0, erase=False).sightings == 0
        receipt = gallery.forget(added_before=1500.0, erase=False)
        assert receipt.sightings == 2
        assert receipt.asked == {"added before": "1970-01-01T00:25:00Z"}
        assert [s.id for s in gallery.find()] == [stays]


def test_all_times_are_those_of_the_clock(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        gallery.clock = lambda: 3000.0
        (id,) = gallery.add([Item(toy.person(1, 1, 1))]).ids
        gallery.people.enroll("Anna", [id])
        assert gallery.sighting(id).decided == 3000.0
        gallery.reembed(ToyEncoder(seed=1))
        assert gallery._manifest["made"] == "1970-01-01T00:50:00Z"
        assert gallery.forget(person="Anna", erase=False).time == "1970-01-01T00:50:00Z"


def test_a_picture_of_who_is_being_forgotten_is_gone(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        gallery.add(crowd(1, 1))
        gone, lost = gallery.find()
        assert gallery.read_picture(gone)[:3] == b"\xff\xd8\xff"
        gallery.forget(ids=[gone.id], erase=False)
        with pytest.raises(InputError, match=f"no sighting {gone.id}"):
            gallery.read_picture(gone)
        gallery.pictures.delete([lost.picture])
        with pytest.raises(GalleryError, match="cannot be read"):
            gallery.read_picture(lost)


def test_forgetting_that_was_killed_can_be_asked_for_again(
    places: Places, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        gallery.people.enroll("Anna", ids[:2])
        with monkeypatch.context() as patch:

            def killed(where: Where) -> None:
                raise KeyboardInterrupt

            patch.setattr(gallery.points, "delete", killed)
            with pytest.raises(KeyboardInterrupt):
                gallery.forget(person="Anna")
        assert gallery.people.names() == {"Anna": 2}
        assert gallery.forget(person="Anna").sightings == 2
        assert set(gallery.pictures.names()) == {s.picture for s in gallery.find()}
        assert gallery.verify().sound


def test_two_threads_cannot_name_one_sighting_differently(
    places: Places, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        said: list[str] = []
        both = threading.Barrier(2, timeout=0.5)
        judge = People._require_once_per_frame

        def slowly(self: People, *args: Any) -> None:
            judge(self, *args)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait()  # only two who judge at the same time come through at once

        monkeypatch.setattr(People, "_require_once_per_frame", slowly)

        def name(who: str) -> None:
            try:
                gallery.people.confirm(who, ids[:1])
                said.append("done")
            except InputError as error:
                said.append(str(error))

        threads = [threading.Thread(target=name, args=(who,)) for who in ("Anna", "Bert")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(text == "done" for text in said) == 1
        assert any("carries the name" in text for text in said)


def test_stats(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add([*crowd(2), Item(toy.person(9, 9, 9))]).ids
        gallery.people.enroll("Anna", ids[:2])
        stats = gallery.stats()
        assert (stats.sightings, stats.named, stats.people, stats.pictures) == (13, 2, 1, 13)
        assert stats.cameras == {"0": 4, "1": 4, "2": 4, "unknown": 1}
        assert stats.first == "1970-01-01T00:00:00Z"
        assert stats.last == "1970-01-01T00:20:01Z"
        assert stats.picture_bytes == sum(gallery.picture(s).stat().st_size for s in gallery.find())
        assert "13" in stats.text()


def test_verify_finds_what_is_wrong_and_compact_cleans(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        assert gallery.verify().sound
        pictures = [gallery.picture(gallery.sighting(i)) for i in ids]
        orphan = gallery.pictures.path("ab" * 32 + ".jpg")
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"x")
        leftover = orphan.with_name(f".{orphan.name}.writing")
        leftover.write_bytes(b"y")
        check = gallery.verify()
        assert check.sound
        assert (check.orphans, check.leftovers) == ([orphan.name], [str(leftover)])
        assert gallery.compact() == 2
        assert not orphan.exists()
        assert not leftover.exists()
        pictures[0].unlink()
        pictures[1].write_bytes(b"\xff\xd8\xff other bytes")
        gallery.points.replace_payloads(
            {ids[2]: dataclasses.replace(gallery.sighting(ids[2]), model="f" * 16).payload()}
        )
        check = gallery.verify()
        assert not check.sound
        assert (check.missing, check.damaged, check.foreign) == (ids[:1], ids[1:2], ids[2:3])
        assert check.sightings == 6


def test_all_vectors_are_made_again_by_another_model(places: Places, encoder: ToyEncoder) -> None:
    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(2)).ids
        gallery.people.enroll("Anna", ids[:2])
        other = ToyEncoder(seed=1, shift=90.0)
        assert gallery.reembed(other) == 12
        assert gallery.people.names() == {"Anna": 2}
        with pytest.raises(GalleryError, match="already"):
            gallery.reembed(other)
    with pytest.raises(GalleryError, match="reembed"):
        places.open(encoder)
    with places.open(other) as gallery:
        assert gallery.verify().sound
        from crosscam.image import decode

        pictures = [decode(gallery.picture(s)) for s in gallery.sightings(ids)]
        np.testing.assert_array_equal(vectors_of(gallery, ids), other.embed(pictures))
        gallery.add_vectors(np.eye(1, 48), [Sighting("")])
        with pytest.raises(GalleryError, match=r"1 sighting .* has no picture .* Forget it"):
            gallery.reembed(encoder)
        assert gallery.model.hash == other.hash


def test_an_interrupted_reembedding_goes_on(
    places: Places, encoder: ToyEncoder, monkeypatch
) -> None:
    monkeypatch.setattr("crosscam.gallery.gallery._BATCH", 4)

    class Dies(ToyEncoder):
        def embed(self, images, /):
            if self.calls >= 8:
                raise KeyboardInterrupt
            return super().embed(images)

    with places.create(encoder) as gallery:
        ids = gallery.add(crowd(2)).ids
        with pytest.raises(KeyboardInterrupt):
            gallery.reembed(Dies(seed=1))
        assert gallery.verify().stale
        # What changes in between is not lost, and what is deleted does not come back.
        gallery.people.enroll("Anna", ids)
        gallery.forget(ids=ids[:3], erase=False)
        other = ToyEncoder(seed=1)
        new = gallery.reembed(other)
        assert 1 <= new < 9
        assert gallery.people.names() == {"Anna": 9}
        assert {s.id for s in gallery.find()} == set(ids[3:])
        assert gallery.verify() == dataclasses.replace(gallery.verify(), stale=[], orphans=[])


def test_a_copy_is_equal_and_can_be_brought_up_to_date(
    places: Places, encoder: ToyEncoder, tmp_path: Path
) -> None:
    other = Places("server" if places.form == "folder" else "folder", tmp_path / "other")
    (tmp_path / "other").mkdir()
    with places.create(encoder) as source, other.create(source.model, "b") as target:
        ids = source.add(crowd(2)).ids
        source.people.enroll("Anna", ids[:2])
        assert source.copy_to(target) == 12
        assert source.copy_to(target) == 0
        assert list(target.find()) == list(source.find())
        np.testing.assert_array_equal(vectors_of(target, ids), vectors_of(source, ids))
        assert target.verify().sound
        source.people.reject("Anna", ids[5:6])
        source.add([Item(toy.person(8, 8, 8))])
        assert source.copy_to(target) == 1
        assert list(target.find()) == list(source.find())
    foreign = other.create(ToyEncoder(seed=3), "c")
    with foreign, places.open() as source, pytest.raises(GalleryError, match="cannot be compared"):
        source.copy_to(foreign)
    other.clean()


def test_galleries_of_one_server_whose_names_begin_alike_are_left_alone(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places("server", tmp_path)
    names = ("a", "a-points-north", f"a-points-{'ab' * 8}")
    with contextlib.ExitStack() as opened:
        own, *others = [opened.enter_context(places.create(encoder, name)) for name in names]
        for gallery in (own, *others):
            gallery.add(crowd(1))
        assert own.verify().stale == []
        own.compact()
        with monkeypatch.context() as patch:
            patch.setattr(own._home, "names", lambda: pytest.fail("all collections were listed"))
            assert own.forget(camera="0").sightings == 2
        assert [len(gallery) for gallery in (own, *others)] == [4, 6, 6]
        own._home.open("points-0123456789abcdef", 48, "none", create=True)  # of another model
        assert own.verify().stale == ["points-0123456789abcdef"]
        assert own.compact() == 1
    places.clean()
