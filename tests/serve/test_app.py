"""The service as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import itertools
import json
import re
import stat
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from served import CAMERAS, NOW, PEOPLE, Caller, Running, jpeg

from crosscam.decision import Trials, collect, fit
from crosscam.decision.trials import of_pairs
from crosscam.errors import ImageError, InputError
from crosscam.gallery import Added, Item, Sighting, Where
from crosscam.gallery.people import People
from crosscam.gallery.pictures import picture_name
from crosscam.serve.guards import BodyLimit, Gate, hasty
from crosscam.serve.retention import Kept
from crosscam.serve.service import _salt
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role

READS = [
    ("GET", "/api/me"),
    ("GET", "/api/stats"),
    ("GET", "/api/people"),
    ("GET", "/api/person"),
    ("GET", "/api/sightings"),
    ("GET", "/api/calibration"),
    ("GET", "/metrics"),
    ("POST", "/api/search"),
]
CHANGES = [
    ("POST", "/api/sightings"),
    ("POST", "/api/enroll"),
    ("POST", "/api/confirm"),
    ("POST", "/api/reject"),
    ("POST", "/api/release"),
    ("POST", "/api/rename"),
    ("POST", "/api/split"),
    ("POST", "/api/merge"),
]
ADMINS = [("POST", "/api/forget"), ("GET", "/api/audit")]


@pytest.mark.parametrize(("verb", "path"), [*READS, *CHANGES, *ADMINS])
def test_nobody_gets_in_without_a_token(verb: str, path: str, running: Running) -> None:
    for headers in ({}, {"Authorization": "Bearer cc_wrong"}, {"Authorization": "Basic YTpi"}):
        answer = running.client.request(verb, path, headers=headers)
        assert answer.status_code == 401
        assert "token" in answer.json()["detail"]


def test_roles_allow_what_they_say(running: Running) -> None:
    allowed = {
        Role.VIEWER: READS,
        Role.OPERATOR: [*READS, *CHANGES],
        Role.ADMIN: [*READS, *CHANGES, *ADMINS],
    }
    for role, paths in allowed.items():
        headers = running.caller(role).headers
        for verb, path in [*READS, *CHANGES, *ADMINS]:
            status = running.client.request(verb, path, headers=headers).status_code
            assert (status != 403) == ((verb, path) in paths), (role, verb, path, status)


def test_a_search_ranks_the_same_person_first(running: Running, viewer: Caller) -> None:
    answer = viewer.search(3, top=5)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert len(results) == 5
    assert results[0]["source"] == "3"
    scores = [r["score"] for r in results]
    assert scores == sorted(scores, reverse=True)
    assert answer.json()["decision"] is None  # nobody calibrated


def test_search_filters(running: Running, viewer: Caller) -> None:
    results = viewer.search(2, cameras=["2"], top=50).json()["results"]
    assert {r["camera"] for r in results} == {"2"}
    assert len(results) == PEOPLE
    results = viewer.search(2, after=str(NOW - 3 * 3600 + 1), top=50).json()["results"]
    assert {r["camera"] for r in results} == {"1", "2"}
    by_id = viewer.post(
        "/api/search",
        data={"sightings": [running.id_of(4, 1)], "top": 3, "exclude_own_cameras": True},
    ).json()["results"]
    assert "1" not in {r["camera"] for r in by_id}
    uploaded = viewer.search(2, exclude_own_cameras=True).json()
    assert "the camera of the query is not known" in uploaded["notes"][-1]


def known_people() -> Trials:
    """Forty people seen by two cameras: directions in 8 dimensions, with noise."""
    random = np.random.default_rng(0)
    people = np.repeat(random.normal(size=(40, 8)), 2, 0)
    vectors = people + 0.1 * random.normal(size=people.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    pids, cameras = np.repeat(np.arange(1, 41), 2), np.tile([1, 2], 40)
    return collect(vectors, pids, cameras, vectors, pids, cameras)


def test_a_calibrated_service_says_known_or_unknown(running: Running, viewer: Caller) -> None:
    running.service.calibration = fit(known_people(), model="m", data="toys")
    answer = viewer.search(3, far=0.1).json()
    it = running.service.calibration
    assert answer["decision"]["people"] == round(PEOPLE * CAMERAS / it.sightings_per_person)
    threshold = answer["decision"]["threshold"]
    assert threshold == round(it.threshold(0.1, people=answer["decision"]["people"]).score, 4)
    assert answer["decision"]["known"] == (answer["results"][0]["score"] > threshold)
    for hit in answer["results"]:
        assert 0 <= hit["probability"] <= 1
        assert (hit["decision"] == "match") == (hit["score"] > threshold)
    chances = [hit["probability"] for hit in answer["results"]]
    assert chances == sorted(chances, reverse=True)


def test_several_pictures_are_remarked_on_where_a_calibration_judges(
    running: Running, viewer: Caller
) -> None:
    both = {"sightings": [running.id_of(4, 1), running.id_of(4, 2)]}

    def remarked(data: dict[str, Any]) -> bool:
        notes = viewer.post("/api/search", data=data).json()["notes"]
        return any("calibration is of single pictures" in note for note in notes)

    assert not remarked(both)
    running.service.calibration = fit(known_people(), model="m", data="toys")
    assert remarked(both)
    assert not remarked({"sightings": both["sightings"][:1]})


def test_pairs_alone_decide_nothing(running: Running, viewer: Caller) -> None:
    scores = [0.9] * 50 + [i / 100 for i in range(50)]
    running.service.calibration = fit(
        of_pairs(scores, [True] * 50 + [False] * 50), model="m", data="toys"
    )
    answer = viewer.search(3, far=0.1).json()
    assert answer["decision"]["known"] is None
    line = running.service.calibration.threshold(0.1).score
    assert answer["results"][0]["score"] > line  # and yet no match: there may be many strangers
    for hit in answer["results"]:
        assert hit["decision"] == ("possible" if hit["score"] > line else "unlikely")


def test_people_are_enrolled_confirmed_rejected_split_merged_and_renamed(
    running: Running, operator: Caller
) -> None:
    one, two, other = running.id_of(1, 1), running.id_of(1, 2), running.id_of(2, 1)
    assert operator.post("/api/enroll", json={"name": "Ann", "ids": [one]}).status_code == 200
    both = {"name": "Ann", "ids": [two, other]}
    assert operator.post("/api/confirm", json=both).status_code == 200
    person = operator.get("/api/person?name=Ann").json()
    assert person["sightings"] == 3
    assert {s["id"] for s in person["own"]} == {one, two, other}
    split = operator.post("/api/split", json={"name": "Ann", "ids": [other], "new": "Bea"})
    assert split.status_code == 200
    assert operator.get("/api/people").json()["people"] == [
        {"name": "Ann", "sightings": 2},
        {"name": "Bea", "sightings": 1},
    ]
    rejected = running.id_of(1, 3)
    operator.post("/api/reject", json={"name": "Ann", "ids": [rejected]})
    found = operator.post("/api/search", data={"person": "Ann", "top": 50}).json()["results"]
    assert rejected not in {r["id"] for r in found}
    renamed = operator.post("/api/rename", json={"name": "Bea", "new": "Cleo"})
    assert renamed.json()["changed"] == 1
    assert operator.post("/api/merge", json={"names": ["Cleo"], "into": "Ann"}).status_code == 200
    assert operator.get("/api/people").json()["people"] == [{"name": "Ann", "sightings": 3}]


def test_a_name_is_taken_off_without_a_rejection(
    running: Running, operator: Caller, admin: Caller
) -> None:
    one, two = running.id_of(1, 1), running.id_of(1, 2)
    operator.post("/api/enroll", json={"name": "Ann", "ids": [one, two]})
    taken = operator.post("/api/enroll", json={"name": "Bea", "ids": [two]})
    assert "release it first" in taken.json()["detail"]
    answer = operator.post("/api/release", json={"ids": [two], "reason": "somebody else"})
    assert answer.status_code == 200
    (released,) = answer.json()["sightings"]
    assert released["id"] == two
    assert not {"person", "rejected"} & set(released)
    begun, done = lines(running)[-2:]
    assert (begun["action"], begun["sightings"]) == ("release", [two])
    assert (begun["reason"], done["stage"]) == ("somebody else", "done")
    assert admin.get("/api/audit").json()["entries"][0]["people_names"] == ["Ann"]
    assert operator.post("/api/enroll", json={"name": "Bea", "ids": [two]}).status_code == 200
    none = "00000000-0000-0000-0000-000000000000"
    assert operator.post("/api/release", json={"ids": [none]}).status_code == 404


def test_adding_is_idempotent(operator: Caller, viewer: Caller) -> None:
    def add() -> Any:
        files = [("pictures", ("n.jpg", jpeg(50), "image/jpeg"))]
        return operator.post("/api/sightings", files=files, data={"camera": "9", "time": str(NOW)})

    first, second = add(), add()
    assert first.status_code == 201
    assert (first.json()["new"], second.json()["new"]) == (1, 0)
    assert first.json()["ids"] == second.json()["ids"]
    found = viewer.search(50, top=1).json()["results"][0]
    assert found["camera"] == "9"
    shown = viewer.get(f"/api/sightings/{found['id']}/picture")
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (32, 64)


def test_forgetting_leaves_nothing(running: Running, operator: Caller, admin: Caller) -> None:
    ids = [running.id_of(5, c) for c in range(1, CAMERAS + 1)]
    operator.post("/api/enroll", json={"name": "Zoe Example", "ids": ids})
    receipt = admin.post(
        "/api/forget", json={"person": "Zoe Example", "reason": "asked for it"}
    ).json()
    assert receipt["sightings"] == receipt["pictures"] == CAMERAS
    for sighting in ids:
        assert admin.get(f"/api/sightings/{sighting}").status_code == 404
        assert admin.get(f"/api/sightings/{sighting}/picture").status_code == 404
    assert admin.get("/api/person?name=Zoe Example").status_code == 404
    found = admin.search(5, top=100).json()["results"]
    assert not set(ids) & {r["id"] for r in found}
    text = (running.service.state / "audit.jsonl").read_text()
    assert "Zoe" not in text
    log = admin.get("/api/audit?action=forget").json()["entries"]
    done, begun = log
    assert (done["stage"], done["of"], done["receipt"]) == ("done", begun["number"], receipt["id"])
    assert (begun["stage"], begun["reason"]) == ("begun", "asked for it")
    assert "person_name" not in begun  # nobody can say any more who that was


def test_what_is_not_there_is_not_said_to_be_forgotten(running: Running, admin: Caller) -> None:
    there, none = running.id_of(1, 1), "00000000-0000-0000-0000-000000000000"
    for asked, words in (
        ({"camera": "99"}, "no sighting of camera '99'. Its cameras: 1, 2, 3."),
        ({"camera": "99", "before": str(NOW)}, "camera '99'"),
        ({"ids": [there, none]}, f"no sighting {none}"),
        ({"person": "Nobody"}, "nobody in the gallery"),
    ):
        answer = admin.post("/api/forget", json=asked)
        assert answer.status_code == 404, asked
        assert words in answer.json()["detail"]
        assert (lines(running)[-1]["stage"], lines(running)[-2]["stage"]) == ("failed", "begun")
    assert len(running.service.gallery) == PEOPLE * CAMERAS
    answer = admin.post("/api/forget", json={"camera": "1", "before": str(NOW - 9e6)})
    assert (answer.status_code, answer.json()["sightings"]) == (200, 0)


def test_a_camera_is_named_tidily_and_an_untidy_one_can_be_forgotten(
    running: Running, operator: Caller, admin: Caller
) -> None:
    def add(camera: str, **more: str) -> Any:
        files = [("pictures", ("a.jpg", jpeg(9), "image/jpeg"))]
        return operator.post("/api/sightings", files=files, data={"camera": camera, **more})

    id = add(" gate  4 ", track=" 7 ").json()["ids"][0]
    found = operator.get(f"/api/sightings/{id}").json()
    assert (found["camera"], found["track"]) == ("gate 4", "7")
    for wrong in ("a\x1b[2J", "a\x07", "x" * 201, "   "):
        assert add(wrong).status_code == 422, wrong
        assert add("1", track=wrong).status_code == 422, wrong
    receipt = admin.post("/api/forget", json={"camera": "gate 4 "}).json()
    assert receipt["sightings"] == 1
    assert lines(running)[-2]["camera"] == "gate 4"

    odd = " gate\x1b5 "  # as an earlier version let it be called
    id = add("gate 5").json()["ids"][0]
    running.service.gallery.points.update(Where(ids=(id,)), {"camera": odd})
    listed = admin.get("/api/sightings", params={"cameras": odd}).json()["sightings"]
    assert [s["id"] for s in listed] == [id]
    assert admin.post("/api/forget", json={"camera": odd}).json()["sightings"] == 1

    id = add("2").json()["ids"][0]  # an untidy one beside the tidy one, which stays
    running.service.gallery.points.update(Where(ids=(id,)), {"camera": " 2"})
    assert admin.post("/api/forget", json={"camera": " 2"}).json()["sightings"] == 1
    assert running.service.gallery.points.count(Where(cameras=("2",))) == PEOPLE


def test_the_list_of_sightings_goes_on_where_it_stopped(running: Running, viewer: Caller) -> None:
    everything = [s.id for s in running.service.gallery.find()]
    listed: list[str] = []
    assert viewer.get("/api/sightings", params={"start": "-" * 36}).status_code == 422
    asked: dict[str, Any] = {"limit": 5}
    while True:
        answer = viewer.get("/api/sightings", params=asked).json()
        listed += [s["id"] for s in answer["sightings"]]
        assert lines(running)[-1]["shown"] == [s["id"] for s in answer["sightings"]]
        if answer["next"] is None:
            break
        assert len(answer["sightings"]) == 5
        asked["start"] = answer["next"]
    assert listed == everything
    assert viewer.get("/api/sightings", params={"limit": len(everything)}).json()["next"] is None


def test_who_searched_for_whom_and_why_is_in_the_log(
    running: Running, viewer: Caller, operator: Caller, admin: Caller
) -> None:
    operator.post("/api/enroll", json={"name": "Ann", "ids": [running.id_of(1, 1)]})
    viewer.search(3, reason="lost child, gate 4")
    viewer.post("/api/search", data={"person": "Ann"})
    log = admin.get("/api/audit").json()
    assert log["whole"]
    by_name, by_picture = log["entries"][0], log["entries"][1]
    assert (by_name["who"], by_name["action"], by_name["person_name"]) == (
        "viewer",
        "search",
        "Ann",
    )
    assert by_picture["reason"] == "lost child, gate 4"
    assert by_picture["pictures"] == [hashlib.sha256(jpeg(3, 1, 9)).hexdigest()]
    assert "Ann" not in (running.service.state / "audit.jsonl").read_text()


def lines(running: Running) -> list[Any]:
    text = (running.service.state / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_change_is_in_the_log_before_it_is_made(
    running: Running, operator: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = running.service.gallery
    before: list[Any] = []
    forget = gallery.forget

    def look(**what: Any) -> Any:
        before.append(lines(running)[-1])
        return forget(**what)

    monkeypatch.setattr(gallery, "forget", look)
    admin.post("/api/forget", json={"camera": "2", "reason": "moved"})
    ((begun,), done) = before, lines(running)[-1]
    assert (begun["action"], begun["stage"], begun["camera"]) == ("forget", "begun", "2")
    assert (done["stage"], done["of"], done["deleted"]) == ("done", begun["number"], PEOPLE)

    monkeypatch.setattr(gallery, "forget", lambda **what: 1 / 0)  # something nobody thought of
    assert admin.post("/api/forget", json={"camera": "1"}).status_code == 500
    begun, failed = lines(running)[-2:]
    assert (failed["stage"], failed["of"]) == ("failed", begun["number"])
    assert failed["error"] == "ZeroDivisionError"

    one = running.id_of(1, 1)
    ways = {
        "enroll": {"name": "Ann", "ids": [one, running.id_of(1, 3)]},
        "confirm": {"name": "Ann", "ids": [one]},
        "split": {"name": "Ann", "ids": [one], "new": "Bea"},
        "rename": {"name": "Bea", "new": "Cleo"},
        "merge": {"names": ["Cleo"], "into": "Ann"},
        "reject": {"name": "Ann", "ids": [one]},
    }
    for verb, body in ways.items():
        assert operator.post(f"/api/{verb}", json=body).status_code == 200, verb
        begun, done = lines(running)[-2:]
        assert (begun["action"], begun["stage"]) == (verb, "begun")
        assert (done["action"], done["stage"], done["of"]) == (verb, "done", begun["number"])
        assert all(len(p) == 16 for p in begun["people"])
    files = [("pictures", ("a.jpg", jpeg(9), "image/jpeg"))]
    added = operator.post("/api/sightings", files=files).json()["ids"]
    begun, done = lines(running)[-2:]
    assert begun["pictures"] == [hashlib.sha256(jpeg(9)).hexdigest()]
    assert done["sightings"] == added


def test_the_log_calls_people_the_same_however_their_names_are_spaced(
    running: Running, operator: Caller, admin: Caller
) -> None:
    ids = [running.id_of(1, camera) for camera in (1, 2, 3)]
    ann, bea = (running.service.pseudonym(name) for name in ("Ann Other", "Bea"))
    asked: dict[str, tuple[dict[str, Any], list[str]]] = {
        "enroll": ({"name": " Ann  Other", "ids": ids[:2]}, [ann]),
        "confirm": ({"name": "Ann Other ", "ids": ids[2:]}, [ann]),
        "split": ({"name": "Ann  Other", "ids": ids[:1], "new": " Bea "}, [ann, bea]),
        "reject": ({"name": " Ann Other", "ids": [running.id_of(2, 1)]}, [ann]),
        "merge": ({"names": [" Bea"], "into": " Ann Other"}, [bea, ann]),
        "rename": ({"name": "Ann Other ", "new": " Bea"}, [ann, bea]),
    }
    for verb, (body, people) in asked.items():
        assert operator.post(f"/api/{verb}", json=body).status_code == 200, verb
        assert lines(running)[-2]["people"] == people, verb
    looks = {
        "look": lambda: operator.get("/api/person", params={"name": " Bea"}),
        "list": lambda: operator.get("/api/sightings", params={"person": "Bea "}),
        "search": lambda: operator.post("/api/search", data={"person": " Bea"}),
    }
    for verb, look in looks.items():
        answer = look()
        assert answer.status_code == 200, verb
        assert (lines(running)[-1]["action"], lines(running)[-1]["person"]) == (verb, bea)
        assert lines(running)[-1]["shown"], verb
    files = [("pictures", ("a.jpg", jpeg(9), "image/jpeg"))]
    operator.post("/api/sightings", files=files, data={"person": "  Bea"})
    assert lines(running)[-2]["person"] == bea
    receipt = admin.post("/api/forget", json={"person": " Bea "}).json()
    assert receipt["sightings"] == 4
    assert lines(running)[-2]["person"] == bea
    assert operator.post("/api/enroll", json={"name": " ", "ids": ids}).status_code == 422


def test_everything_that_was_shown_is_in_the_log_by_id(
    running: Running, viewer: Caller, operator: Caller, admin: Caller
) -> None:
    ids = [running.id_of(1, 1), running.id_of(1, 2)]
    operator.post("/api/enroll", json={"name": "Ann", "ids": ids})

    def last(count: int = 1) -> Any:
        return lines(running)[-count:] if count > 1 else lines(running)[-1]

    results = viewer.search(3, top=4).json()["results"]
    assert last()["shown"] == [r["id"] for r in results]
    listed = viewer.get("/api/sightings?cameras=2").json()["sightings"]
    assert (last()["action"], last()["shown"]) == ("list", [s["id"] for s in listed])
    viewer.get("/api/people")
    assert (last()["who"], last()["action"], last()["results"]) == ("viewer", "people", 1)
    viewer.get("/api/person?name=Ann")
    assert (last()["action"], set(last()["shown"])) == ("look", set(ids))

    # A picture that a line has named to this token needs no other one.
    count = len(lines(running))
    for id in [s["id"] for s in listed] + ids:
        assert viewer.get(f"/api/sightings/{id}/picture").status_code == 200
    assert len(lines(running)) == count
    named = {id for entry in lines(running) for id in entry.get("shown", [])}
    other = next(id for id in running.ids if id not in named)
    viewer.get(f"/api/sightings/{other}/picture")
    viewer.get(f"/api/sightings/{other}/picture")
    assert len(lines(running)) == count + 1
    assert (last()["action"], last()["shown"]) == ("picture", [other])
    admin.get(f"/api/sightings/{other}/picture")  # to somebody else it is news
    assert (last()["who"], last()["action"]) == ("admin", "picture")


def test_what_was_asked_in_vain_is_in_the_log(
    running: Running, viewer: Caller, operator: Caller
) -> None:
    operator.post("/api/enroll", json={"name": "Ann", "ids": [running.id_of(1, 1)]})
    viewer.post("/api/search", data={"person": "Berta", "reason": "curious"})
    entry = lines(running)[-1]
    assert (entry["action"], entry["failed"]) == ("search", "NotFoundError")
    assert entry["person"] == running.service.pseudonym("Berta")
    viewer.get("/api/person?name=Berta")
    assert lines(running)[-1]["failed"] == "NotFoundError"
    viewer.post("/api/forget", json={"person": "Ann"})
    entry = lines(running)[-1]
    assert (entry["who"], entry["action"], entry["asked"]) == ("viewer", "refused", "forget")


@pytest.mark.parametrize(
    "name",
    ["A/B", "..", "../../x", "%2F", "why? a&b=c#d", "Zoë 名前", "a+b", "'\"<b>"],
)
def test_odd_names_of_people_and_cameras_can_be_asked_for(
    name: str, running: Running, operator: Caller, admin: Caller
) -> None:
    one, two = running.id_of(1, 1), running.id_of(1, 2)
    assert operator.post("/api/enroll", json={"name": name, "ids": [one]}).status_code == 200
    assert operator.post("/api/confirm", json={"name": name, "ids": [two]}).status_code == 200
    person = operator.get("/api/person", params={"name": name}).json()
    assert (person["name"], person["sightings"]) == (name, 2)
    found = operator.post("/api/search", data={"person": name, "include_known": "true"}).json()
    assert {one, two} <= {r["id"] for r in found["results"]}
    listed = operator.get("/api/sightings", params={"person": name}).json()["sightings"]
    assert {s["id"] for s in listed} == {one, two}
    files = [("pictures", ("a.jpg", jpeg(9), "image/jpeg"))]
    added = operator.post("/api/sightings", files=files, data={"camera": name}).json()["ids"]
    listed = operator.get("/api/sightings", params={"cameras": name}).json()["sightings"]
    assert [s["id"] for s in listed] == added
    assert operator.search(9, cameras=[name]).json()["results"][0]["id"] == added[0]
    body = {"name": name, "ids": [one], "new": f"{name} 2"}
    assert operator.post("/api/split", json=body).status_code == 200
    body = {"name": f"{name} 2", "new": f"{name}/3"}
    assert operator.post("/api/rename", json=body).status_code == 200
    assert admin.post("/api/forget", json={"person": name}).json()["sightings"] == 1
    assert [p["name"] for p in admin.get("/api/people").json()["people"]] == [f"{name}/3"]


@pytest.mark.settings(max_pixels=20_000)
def test_pictures_are_shown_in_bounds(running: Running, viewer: Caller) -> None:
    gallery = running.service.gallery
    tall = np.zeros((3000, 4, 3), np.uint8)
    large = np.zeros((200, 200, 3), np.uint8)
    ids = gallery.add([Item(tall), Item(large)]).ids
    shown = Image.open(io.BytesIO(viewer.get(f"/api/sightings/{ids[0]}/picture").content))
    assert max(shown.size) == 1024
    refused = viewer.get(f"/api/sightings/{ids[1]}/picture")
    assert refused.status_code == 422
    assert "pixels" in refused.json()["detail"]


@pytest.mark.settings(searches=2)
def test_pictures_wait_for_their_turn_and_searches_do_not_wait_for_them(
    running: Running, viewer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosscam.serve.access._WAIT", 0.05)
    for _ in range(2):
        running.service.shows.acquire()
    answer = viewer.get(f"/api/sightings/{running.ids[0]}/picture")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert viewer.search(1).status_code == 200
    running.service.shows.release()
    assert viewer.get(f"/api/sightings/{running.ids[0]}/picture").status_code == 200


def test_statistics_do_not_look_at_every_picture(
    running: Running, viewer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = viewer.get("/api/stats").json()
    files = running.service.gallery.pictures
    monkeypatch.setattr(type(files), "_files", lambda self: pytest.fail("looked at all again"))
    assert viewer.get("/api/stats").json() == first


def test_only_the_owner_may_look_into_the_state_of_a_service(running: Running) -> None:
    state = running.service.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("tokens.json", "audit.jsonl", "salt"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600


@pytest.mark.settings(require_reason=True)
def test_a_reason_can_be_required(viewer: Caller, admin: Caller) -> None:
    assert viewer.search(1).status_code == 422
    assert viewer.search(1, reason="  ").status_code == 422
    assert viewer.search(1, reason="audit of gate 4").status_code == 200
    assert admin.post("/api/forget", json={"camera": "1"}).status_code == 422


def test_a_changed_log_shows(running: Running, viewer: Caller, admin: Caller) -> None:
    for _ in range(3):
        viewer.search(1)
    path = running.service.state / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    log = admin.get("/api/audit").json()
    assert not log["whole"]
    assert "changed by hand" in log["fault"]


@pytest.mark.settings(retention_days=1.0, audit_days=2.0)
def test_retention_really_deletes(running: Running, viewer: Caller) -> None:
    viewer.search(1)
    running.now[0] = NOW + 86_400 - 2 * 3600 + 1  # what cameras 2 and 3 saw is a day old
    gone = running.service.retain()
    assert gone["sightings"] == PEOPLE * 2
    assert {s.camera for s in running.service.gallery.find(Where())} == {"1"}
    running.now[0] += 3 * 86_400
    assert running.service.retain()["audit"] >= 1


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Running]:
    """A service whose upkeep is left to the test."""
    found = Running(tmp_path, ServiceSettings(retention_days=1.0, compact_hours=24.0))
    yield found
    found.service.close()


def test_what_retention_deletes_leaves_the_files_once_a_day(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, service, stop = idle, idle.service, threading.Event()
    done: list[float] = []

    def compact(stop: threading.Event) -> bool:
        done.append(service.clock() - NOW)
        service.gallery._set_unerased(False)
        return True

    monkeypatch.setattr(service.gallery, "compact_aside", compact)
    hour = 3600
    assert not service.compact(stop)  # nothing was deleted
    running.now[0] = NOW + 24 * hour - 3 * hour
    assert service.retain()["sightings"] == PEOPLE
    assert service.gallery.unerased
    assert [e["stage"] for e in lines(running)] == ["begun", "done"]
    assert service.compact(stop)
    running.now[0] += hour
    assert service.retain()["sightings"] == PEOPLE
    for _ in range(23):
        assert not service.compact(stop)
        running.now[0] += hour
    service.retain()
    assert service.compact(stop)
    assert done == [21 * hour, 45 * hour]
    assert [(e["action"], e.get("erased")) for e in lines(running)][-2:] == [
        ("erase", None),
        ("erase", True),
    ]


def test_a_compaction_that_failed_is_tried_again(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, service, stop = idle, idle.service, threading.Event()
    service._compacted = NOW
    service.gallery.forget(ids=running.ids[:1], erase=False)
    service.soon = True
    for broken in (lambda stop: False, lambda stop: 1 / 0):
        monkeypatch.setattr(service.gallery, "compact_aside", broken)
        with contextlib.suppress(ZeroDivisionError):
            assert not service.compact(stop)
        assert service.soon

    def compact(stop: threading.Event) -> bool:
        service.soon = True  # somebody else forgets meanwhile
        return True

    monkeypatch.setattr(service.gallery, "compact_aside", compact)
    assert service.compact(stop)
    assert service.soon
    ends = [(e.get("stage"), e.get("erased")) for e in lines(running) if e["action"] == "erase"]
    assert ends[1::2] == [("done", False), ("failed", None), ("done", False)]


@pytest.mark.slow
@pytest.mark.settings(compact_hours=24.0)
def test_what_an_admin_forgets_leaves_the_files_soon(running: Running, admin: Caller) -> None:
    service = running.service
    service._compacted = NOW  # not due for a day
    ids = [running.id_of(2, 1)]
    admin.post("/api/enroll", json={"name": "Zacharias Forgotten", "ids": ids})
    assert not admin.post("/api/forget", json={"person": "Zacharias Forgotten"}).json()["erased"]
    ends = time.monotonic() + 60
    while service.gallery.unerased:
        assert time.monotonic() < ends
        assert admin.search(1).status_code == 200  # it goes on answering
        time.sleep(0.1)
    folder = Path(service.gallery.place)
    assert not [p for p in folder.rglob("*") if p.is_file() and b"Zacharias" in p.read_bytes()]
    while "erased" not in (entry := lines(running)[-1]):
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert entry["erased"]


@pytest.mark.settings(retention_days=1.0, audit_days=0.0)
def test_retention_knows_how_long_sightings_without_a_time_are_kept(
    running: Running, operator: Caller
) -> None:
    operator.post("/api/sightings", files=[("pictures", ("a.jpg", jpeg(1, 8), "image/jpeg"))])
    future = {"time": str(NOW + 99 * 86_400)}
    files = [("pictures", ("a.jpg", jpeg(2, 8), "image/jpeg"))]
    operator.post("/api/sightings", files=files, data=future)
    running.now[0] = NOW + 86_400
    assert running.service.retain()["sightings"] == PEOPLE * CAMERAS
    assert len(running.service.gallery) == 2
    running.now[0] += 1
    assert running.service.retain()["sightings"] == 2
    assert not list(running.service.gallery.pictures.names())


@pytest.mark.settings(retention_days=1.0)
def test_what_was_kept_is_written_down_at_every_upkeep_and_at_the_end(running: Running) -> None:
    record = running.service.state / "retention.json"
    running.service.retain()
    assert Kept.read(record) == Kept(1.0, NOW)
    running.now[0] += 2 * 86_400
    running.client.__exit__()  # the service stops
    assert Kept.read(record) == Kept(1.0, NOW + 2 * 86_400)
    assert len(running.service.gallery) == 0
    running.client.__enter__()


def test_retention_goes_on_after_a_fault_and_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Running(tmp_path, ServiceSettings())
    tried = threading.Event()

    def broken() -> None:
        tried.set()
        raise ValueError("a line nobody can read")

    monkeypatch.setattr(found.service, "retain", broken)
    with found.client:
        assert tried.wait(10)
        viewer = found.caller(Role.VIEWER)
        for _ in range(100):
            if "crosscam_retention_failures_total 1.0" in viewer.get("/metrics").text:
                break
            time.sleep(0.02)
        assert "crosscam_retention_failures_total 1.0" in viewer.get("/metrics").text
        assert "retention" in {t.name for t in threading.enumerate()}
    assert "the hourly upkeep failed" in caplog.text
    found.service.close()


# --- what a stranger may send -----------------------------------------------------------------


def send(caller: Caller, data: bytes, name: str = "q.jpg") -> Any:
    return caller.post("/api/search", files=[("pictures", (name, data, "image/jpeg"))])


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<html><script>alert(1)</script></html>", "not a picture"),
        (jpeg(1)[:200], "truncated|cut|corrupt|cannot be decoded|broken|ends"),
        (bomb(50_000, 50_000), "pixels"),
        (bomb(5_000, 5_000), "pixels"),
        (b"GIF89a<script>" + b"x" * 50, "picture"),
        (b"%PDF-1.4", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, words: str, viewer: Caller) -> None:
    answer = send(viewer, data)
    assert answer.status_code == 422
    assert re.search(words, answer.json()["detail"]), answer.json()["detail"]


def test_a_picture_that_cannot_be_kept_is_named_and_none_is_added(
    running: Running, operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(*pictures: bytes) -> Any:
        files = [("pictures", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(pictures)]
        return operator.post("/api/sightings", files=files)

    def name(data: bytes) -> str:
        if data == odd:  # of a kind that can be decoded, but has no name here
            raise ImageError("not a picture in a known format")
        return picture_name(data)

    odd, count = jpeg(52), len(running.service.gallery)
    monkeypatch.setattr("crosscam.serve.routes.gallery.picture_name", name)
    for strange, words in ((odd, "known format"), (jpeg(1)[:300], "cut|truncated|ends")):
        answer = add(strange)
        assert answer.status_code == 422
        assert re.search(words, answer.json()["detail"])
        answer = add(jpeg(50), jpeg(51), strange)
        assert answer.status_code == 422
        assert re.match(f"picture 3 of 3: .*({words})", answer.json()["detail"])
    assert len(running.service.gallery) == count
    # What the gallery alone cannot read is not said to be added either.
    added = Added(ids=[running.ids[0], ""], broken=[("upload", "no pixels")])
    monkeypatch.setattr(running.service.gallery, "add", lambda items: added)
    answer = add(jpeg(50), jpeg(51))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "picture 2 of 2: no pixels"
    assert lines(running)[-1]["stage"] == "failed"


def test_a_broken_picture_of_a_search_is_named(viewer: Caller) -> None:
    pictures = [jpeg(1), b"<html>", jpeg(2)]
    files = [("pictures", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(pictures)]
    answer = viewer.post("/api/search", files=files)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("picture 2 of 3: the upload is not a picture")


def test_unknown_form_fields_are_named(viewer: Caller, operator: Caller) -> None:
    """A misspelled filter must not search everything."""
    picture = [("pictures", ("q.jpg", jpeg(1), "image/jpeg"))]
    answer = viewer.post("/api/search", files=picture, data={"camera": "1", "tpo": "3"})
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert "unknown form fields: 'camera', 'tpo'." in detail
    assert "cameras, not_cameras" in detail
    assert "token" not in detail
    assert viewer.post("/api/search", files=picture, data={"cameras": "1"}).status_code == 200

    answer = operator.post("/api/sightings", files=picture, data={"cam\x1b\u00e9" * 30: "1"})
    assert answer.status_code == 422
    assert "unknown form fields: 'cam" in answer.json()["detail"]
    assert "\x1b" not in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400
    # What a role may not do is said first.
    refused = viewer.post("/api/sightings", files=picture, data={"camra": "1"})
    assert refused.status_code == 403


def test_unknown_query_parameters_are_named(viewer: Caller, running: Running) -> None:
    answer = viewer.get("/api/sightings?camera=99&person=x&%1b=1")
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "unknown query parameters: 'camera', '\\x1b'. Known are cameras, person, after, before, "
        "limit, start."
    )
    id = running.id_of(1, 1)
    for path in (
        "me",
        "stats",
        "people",
        "calibration",
        f"sightings/{id}",
        f"sightings/{id}/picture",
    ):
        answer = viewer.get(f"/api/{path}?nmae=x")
        assert answer.status_code == 422, path
        assert "unknown query parameters: 'nmae'. There are none here." in answer.text, path
    assert viewer.get("/metrics?x=1").status_code == 422
    # A filter of a search is a form field; in the address it would filter nothing.
    files = [("pictures", ("q.jpg", jpeg(1), "image/jpeg"))]
    assert viewer.post("/api/search?cameras=1", files=files).status_code == 422
    assert (
        viewer.get("/api/audit?nmae=x").status_code == 403
    )  # what a role may not do is said first


def test_a_form_is_asked_for_where_json_came(viewer: Caller) -> None:
    answer = viewer.post("/api/search", json={"person": "Ann"})
    assert answer.status_code == 422
    assert "as a form" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"name": "Ann", ids: []}', "the body is not JSON that can be read: Expecting property"),
        (b"[1]", "the body: "),
        (b"", "the body: Field required"),
    ],
)
def test_a_broken_body_is_explained(body: bytes, words: str, operator: Caller) -> None:
    headers = {**operator.headers, "content-type": "application/json"}
    answer = operator.client.post("/api/enroll", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(words)


def test_a_polyglot_is_kept_as_a_picture_only(running: Running, operator: Caller) -> None:
    """A JPEG with a page behind it is shown as a JPEG, whatever else it could be."""
    data = jpeg(60) + b"<script>alert(1)</script>"
    files = [("pictures", ("x.html", data, "text/html"))]
    answer = operator.post("/api/sightings", files=files)
    assert answer.status_code == 201
    shown = operator.get(f"/api/sightings/{answer.json()['ids'][0]}/picture")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert b"script" not in shown.content


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\x.jpg", "a\x00.jpg", "x" * 5000])
def test_file_names_are_never_used(name: str, running: Running, operator: Caller) -> None:
    before = set(running.service.state.parent.rglob("*"))
    files = [("pictures", (name, jpeg(61), "image/jpeg"))]
    status = operator.post("/api/sightings", files=files).status_code
    assert status in (201, 400, 422)
    after = set(running.service.state.parent.rglob("*"))
    assert not [p for p in after - before if "passwd" in p.name or p.name.startswith("x" * 100)]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/tokens.py",
        "/api/sightings/..%2f..%2fstate%2ftokens.json",
        "/api/sightings/../../state/tokens.json/picture",
    ],
)
def test_paths_do_not_leave_their_folder(path: str, viewer: Caller) -> None:
    answer = viewer.get(path)
    assert answer.status_code in (404, 405, 422)
    assert b"sha256" not in answer.content


@pytest.mark.settings(max_upload_bytes=20_000)
def test_uploads_are_bounded(viewer: Caller) -> None:
    answer = send(viewer, b"\xff\xd8" + b"0" * 30_000)
    assert answer.status_code == 413
    assert "20,000" in answer.json()["detail"]

    def endless() -> Any:  # without a length
        yield b'--b\r\ncontent-disposition: form-data; name="pictures"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield b"0" * 1000

    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = viewer.client.post("/api/search", headers=viewer.headers | kind, content=endless())
    assert answer.status_code == 413


def test_nothing_of_a_stranger_is_read(running: Running) -> None:
    for headers in ({}, {"authorization": "Bearer cc_none"}, {"authorization": "Basic eA=="}):
        answer = running.client.post("/api/search", content=b"x", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    status, events = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x"}

    async def send(message: Any) -> None:
        status.append(message.get("status"))

    gate = Gate(app, known=lambda secret: secret == "right")
    for secret in (b"wrong", b"right"):
        scope = {"type": "http", "path": "/api/search", "headers": [
            (b"authorization", b"Bearer " + secret)]}  # fmt: skip
        asyncio.run(gate(scope, receive, send))
    assert status[0] == 401
    assert len(events) == 1


def test_connections_without_a_request_are_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6)  # longer than a client may take to ask
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> tuple[bytes, bytes, bytes]:
        config = uvicorn.Config(app, port=0, http=hasty(0.3), lifespan="off", log_level="error",
                                timeout_keep_alive=60)  # fmt: skip
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        silent, half, whole = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        half[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        whole[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        ends = await asyncio.wait_for(
            asyncio.gather(*(pair[0].read() for pair in (silent, half, whole))), 10
        )
        for _, writer in (silent, half, whole):
            writer.close()
        server.should_exit = True
        await running
        return ends[0], ends[1], ends[2]

    silent, half, whole = asyncio.run(run())
    assert silent == b""
    assert half == b""
    assert whole.startswith(b"HTTP/1.1 204")  # and is closed when nothing follows


def test_a_slow_client_is_turned_away() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass

    async def receive() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "headers": [], "path": "/"}
        await BodyLimit(app, most=10_000, seconds=0.2)(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408
    assert "0.2 seconds" in json.loads(sent[1]["body"])["detail"]


@pytest.mark.settings(burst=5, per_minute=1)
def test_requests_are_limited_per_token(running: Running, viewer: Caller, admin: Caller) -> None:
    statuses = [viewer.get("/api/me").status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert int(viewer.get("/api/me").headers["retry-after"]) > 1
    assert admin.get("/api/me").status_code == 200


def test_too_many_pictures(viewer: Caller) -> None:
    files = [("pictures", (f"{i}.jpg", jpeg(1), "image/jpeg")) for i in range(9)]
    answer = viewer.post("/api/search", files=files)
    assert answer.status_code == 422
    assert "at most 8" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/health", "/api/me", "/nothing", "/static/none.js"])
def test_every_answer_has_safe_headers(path: str, viewer: Caller) -> None:
    headers = viewer.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    if not path.startswith("/static"):
        assert headers["cache-control"] == "no-store"


def test_what_nobody_thought_of_is_answered_counted_and_logged(
    running: Running,
    viewer: Caller,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(running.service.gallery, "stats", lambda: 1 / 0)
    answer = viewer.get("/api/stats")
    assert answer.status_code == 500
    detail = answer.json()["detail"]
    number = re.search(r"under ([0-9a-f]{12})", detail)
    assert number is not None
    assert "ZeroDivision" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert f"request {number[1]} failed: GET '/api/stats'" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    count = 'crosscam_requests_total{action="stats",status="500"} 1.0'
    assert count in viewer.get("/metrics").text
    # The guard of the tokens is inside as well.
    monkeypatch.setattr(running.service.tokens, "find", lambda secret: 1 / 0)
    answer = viewer.get("/api/me")
    assert (answer.status_code, answer.headers["cache-control"]) == (500, "no-store")


def test_a_damaged_key_of_the_log_is_named(tmp_path: Path) -> None:
    salt = _salt(tmp_path / "salt")
    assert _salt(tmp_path / "salt") == salt
    for damaged in ("zz", "", "ab" * 31, "\u00e9"):
        (tmp_path / "salt").write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=r"salt is not the key .* from a copy, or move it"):
            _salt(tmp_path / "salt")


def test_a_picture_of_a_sighting_that_is_being_forgotten_is_not_there(
    running: Running, viewer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, id = running.service.gallery, running.id_of(1, 1)
    deleted, asked = threading.Event(), threading.Event()
    delete, read = gallery.points.delete, gallery.pictures.read

    def slowly(where: Where) -> None:
        deleted.set()  # the picture is gone, the sighting is not
        asked.wait(10)
        delete(where)

    def tried(name: str) -> bytes:
        try:
            return read(name)
        finally:
            threading.Timer(0.2, asked.set).start()

    monkeypatch.setattr(gallery.points, "delete", slowly)
    monkeypatch.setattr(gallery.pictures, "read", tried)
    forgetting = threading.Thread(target=lambda: gallery.forget(ids=[id], erase=False))
    forgetting.start()
    assert deleted.wait(10)
    assert viewer.get(f"/api/sightings/{id}/picture").status_code == 404
    forgetting.join()
    # One whose file is lost is another matter.
    lost = running.id_of(1, 2)
    gallery.pictures.delete([gallery.sighting(lost).picture])
    answer = viewer.get(f"/api/sightings/{lost}/picture")
    assert answer.status_code == 503
    assert "gallery verify" in answer.json()["detail"]


def test_metrics_count_requests(viewer: Caller) -> None:
    viewer.search(1)
    text = viewer.get("/metrics").text
    assert 'crosscam_requests_total{action="search",status="200"} 1.0' in text
    assert f"crosscam_sightings {float(PEOPLE * CAMERAS)}" in text


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"searches": 0},
        {"far": 1.0},
        {"far": float("nan")},
        {"present": 1.0},
        {"retention_days": -1},
        {"audit_days": float("inf")},
        {"body_seconds": float("nan")},
        {"compact_hours": -0.1},
        {"burst": 0},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ServiceSettings(**wrong)  # type: ignore[arg-type]


def test_bad_fields_are_named(viewer: Caller) -> None:
    assert "top" in viewer.search(1, top=100_000).json()["detail"]
    assert "time" in viewer.search(1, after="yesterday").json()["detail"]
    assert viewer.get("/api/sightings/zzz").status_code == 422
    missing = viewer.get("/api/sightings/00000000-0000-0000-0000-000000000000")
    assert missing.status_code == 404
    nobody = viewer.get("/api/person?name=nobody")
    assert nobody.status_code == 404


def test_what_is_not_there_is_404_however_it_is_said(
    running: Running, viewer: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "nobody in the gallery has no sighting"  # as messages of what is missing go
    for answer in (
        viewer.search(1, after=words),
        admin.post("/api/forget", json={"camera": "1", "before": words}),
        admin.post("/api/rename", json={"name": words, "new": f"{words}\u200b"}),
    ):
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
    monkeypatch.setattr(People, "unknown", lambda self, name: f"no such name: {name}")
    for answer in (
        viewer.get("/api/person?name=Ann"),
        viewer.post("/api/search", data={"person": "Ann"}),
        admin.post("/api/forget", json={"person": "Ann"}),
    ):
        assert (answer.status_code, answer.json()) == (404, {"detail": "no such name: Ann"})


def test_strangers_who_look_alike_are_noticed(idle: Running) -> None:
    service, viewer = idle.service, idle.caller(Role.VIEWER)

    def told(strangers: list[float]) -> Any:
        """What is said where strangers scored so when calibrating."""
        scores, same = [0.99] * 50 + strangers, [True] * 50 + [False] * len(strangers)
        service.calibration = fit(of_pairs(scores, same), model="m", data="toys")
        service.look_for_drift()
        return viewer.get("/api/calibration").json()["drift"]

    low = [i / 1000 for i in range(200)]
    assert told(low) is None  # too few sightings to say
    dim, random = service.gallery.model.dim, np.random.default_rng(0)
    vectors = 1.0 + 0.5 * random.normal(size=(300, dim))  # all in one direction, about
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    service.gallery.add_vectors(vectors, [Sighting("")] * len(vectors))
    drift = told(low)
    assert "strangers look more alike here" in drift["warning"]
    assert drift["now"] > 0.9
    assert drift["pairs"] == PEOPLE * CAMERAS + len(vectors) - 1
    alike = [float(a @ b) for a, b in itertools.pairwise(vectors)]
    assert told(alike)["warning"] == ""
