"""``crosscam gallery`` from end to end."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from film import Walker, shoot
from onnx import TensorProto
from PIL import Image
from test_video import save
from toy_gallery import ToyEncoder

from crosscam.cli import main
from crosscam.decision import Judgment, Threshold, fit
from crosscam.decision.trials import of_pairs
from crosscam.gallery import Gallery, Where, format_time


@pytest.fixture
def crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of crops; any --model is the toy encoder, "other" another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "crosscam.encoder.Encoder.load", lambda name: ToyEncoder(1 if name == "other" else 0)
    )
    for p in range(3):
        for c in (1, 2):
            for s in range(2):
                name = Path(f"crops/{p}_c{c}_{s}.jpg")
                name.parent.mkdir(exist_ok=True)
                Image.fromarray(toy.person(p, c, s)).save(name, quality=95)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["gallery", *words]) == status, capsys.readouterr().err
    out = capsys.readouterr()
    return out.err if status == 1 and out.err else out.out


def values(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert main(["gallery", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_gallery_from_the_first_picture_to_the_last_receipt(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g")
    text = call(capsys, "add", "crops", *g, "--model", "m", "--time", "2026-05-04T10:00+02:00")
    assert "added 12 sightings" in text
    assert "0 sightings, 12 were there already" in call(
        capsys, "add", "crops", *g, "--model", "m", "--time", "1777881600"
    )
    found = values(capsys, "search", "crops/0_c1_0.jpg", *g, "--model", "m", "--top", "3",
                   "--not-camera", "2", "--out", "found.html")  # fmt: skip
    first = found["results"][0]
    assert first["source"] == "crops/0_c1_0.jpg"
    assert first["time"] == "2026-05-04T08:00:00Z"
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert first["copy_of"] == "query"
    assert {r["camera"] for r in found["results"]} == {"1"}
    page = Path("found.html").read_text()
    assert page.count("<img") == 4
    assert "camera 1" in page
    assert "upper" in page
    assert not re.search(r"src='(?!data:)|https?://", page)
    lines = call(capsys, "search", *g, "--sighting", first["id"], "--top", "2").splitlines()
    assert lines[0].startswith("  1  0.")

    ids = [r["id"] for r in found["results"]]
    call(capsys, "enroll", "Anna", *g, ids[0], ids[1], "--same-frame")
    Image.fromarray(toy.person(0, 9, 9)).save("extra.png")
    call(capsys, "enroll", "Anna", *g, "extra.png", "--model", "m")
    call(capsys, "reject", "Anna", *g, ids[2])
    assert "Anna: 3 sightings (0 confirmed, 1 rejected)" in call(capsys, "people", *g)
    call(capsys, "split", "Anna", ids[1], "--new", "Bert", *g)
    call(capsys, "rename", "Bert", "Berta", *g)
    call(capsys, "merge", "Berta", "--into", "Anna", *g)
    call(capsys, "release", ids[1], *g)
    call(capsys, "confirm", "Anna", ids[1], "--same-frame", *g)
    (anna,) = values(capsys, "people", *g)
    assert (anna["name"], anna["sightings"], anna["confirmed"]) == ("Anna", 3, 1)
    page_text = call(capsys, "show", *g, "--person", "Anna", "--out", "anna.html")
    assert "anna.html" in page_text
    assert Path("anna.html").read_text().count("<img") == 3

    call(capsys, "copy", "g", "h", "--quiet")
    assert values(capsys, "stats", "--gallery", "h")["sightings"] == 13
    assert "model is now toy" in call(capsys, "reembed", "--gallery", "h", "--model", "other")
    assert "cannot be compared" in call(
        capsys, "add", "crops", "--gallery", "h", "--model", "m", status=1
    )
    assert "give --yes" in call(capsys, "forget", *g, "--person", "Anna", status=1)
    nobody = call(capsys, "forget", *g, "--before", "1971-01-01", status=1)
    assert "no sighting fits that" in nobody
    receipt = values(capsys, "forget", *g, "--person", "Anna", "--yes", "--receipt", "r.json",
                     "--reason", "asked to")  # fmt: skip
    assert receipt == json.loads(Path("r.json").read_text())
    assert (receipt["sightings"], receipt["erased"], receipt["reason"]) == (3, True, "asked to")
    assert "removed 0" in call(capsys, "compact", *g)
    assert values(capsys, "verify", *g)["sound"]
    assert "10 sightings: all whole" in call(capsys, "verify", *g)
    next(Path("g/pictures").rglob("*.jpg")).unlink()
    assert "PROBLEMS" in call(capsys, "verify", *g, status=1)


def test_a_copy_is_quantized_or_not_as_it_is_said(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ("add", "crops", "--model", "m", "--gallery")
    call(capsys, *add, "plain")
    text = call(capsys, *add, "plain", "--int8", status=1)
    assert "crosscam gallery copy plain NEW --int8" in text
    call(capsys, "copy", "plain", "small", "--int8")
    call(capsys, *add, "small", "--int8")  # which is now possible
    call(capsys, "copy", "small", "same")
    call(capsys, "copy", "small", "back", "--no-int8")
    kinds = [
        values(capsys, "stats", "--gallery", name)["quantization"]
        for name in ("plain", "small", "same", "back")
    ]
    assert kinds == ["none", "int8", "int8", "none"]
    with Gallery.open("plain") as a, Gallery.open("back") as b:  # not a bit is lost on the way
        there, back = ({p.id: p for p in g.points.scan(Where(), vectors=True)} for g in (a, b))
        assert there.keys() == back.keys()
        for id, point in there.items():
            np.testing.assert_array_equal(point.vector, back[id].vector)
            assert point.payload == back[id].payload
    assert "'none'" in call(capsys, "copy", "small", "plain", "--int8", status=1)
    call(capsys, "copy", "small", "plain")  # without a word, it stays what it is
    with pytest.raises(SystemExit):
        main(["gallery", "copy", "small", "x", "--int8", "--no-int8"])
    assert not Path("x").exists()


def test_lists_and_films_are_added_by_their_name(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.csv").write_text(
        "path,camera,time,person\n"
        "crops/0_c1_0.jpg,gate,2026-05-04T10:00:00,Anna\n"
        "crops/gone.jpg,gate,,\n"
    )
    g = ("--gallery", "g", "--model", "m")
    text = call(capsys, "add", "l.csv", *g, "--timezone", "Europe/Berlin")
    assert "added 1 sighting, 1 broken picture was skipped" in text
    assert "gone.jpg: cannot be read" in text
    with Gallery.open("g") as gallery:
        (s,) = gallery.find()
        assert (s.time, s.person, s.how) == (1777881600.0, "Anna", "given")

    walker = Walker(toy.person(1, 1, 1, (128, 64)), np.ones((128, 64), bool), (100, 20), (0, 0))
    shoot(Path("film.mp4"), [walker], 30)
    box = np.array([[[100 / 320, 20 / 240, 164 / 320, 148 / 240]]], np.float32)
    detector = save(
        Path("d.onnx"),
        [_node("Cast", ["orig_target_sizes"], ["s"], to=TensorProto.FLOAT),
         _node("Concat", ["s", "s"], ["t"], axis=1), _node("Mul", ["shares", "t"], ["boxes"]),
         _node("Identity", ["c"], ["labels"]), _node("ReduceMax", ["images"], ["m"], keepdims=0),
         _node("Mul", ["one", "m"], ["scores"])],
        [("images", TensorProto.FLOAT, [1, 3, 32, 32]),
         ("orig_target_sizes", TensorProto.INT64, [1, 2])],
        [("labels", TensorProto.INT64, [1, 1]), ("boxes", TensorProto.FLOAT, [1, 1, 4]),
         ("scores", TensorProto.FLOAT, [1, 1])],
        {"shares": box, "c": np.array([[0]]), "one": np.array([[1]], np.float32)},
    )  # fmt: skip
    assert "give --detector" in call(capsys, "add", "film.mp4", *g, status=1)
    text = call(capsys, "add", "film.mp4", *g, "--detector", str(detector), "--camera", "street",
                "--time", "2026-05-04T08:00:00Z")  # fmt: skip
    count = int(re.match(r"added (\d) sightings\n", text)[1])
    assert count in (2, 3)
    found = values(capsys, "search", "crops/1_c1_1.jpg", *g, "--camera", "street",
                   "--group", "track")  # fmt: skip
    assert [r.get("count", 1) for r in found["results"]] == [count]
    assert found["results"][0]["box"] == pytest.approx([100, 20, 164, 148], abs=1e-3)
    assert found["results"][0]["time"].startswith("2026-05-04T08:00:0")


def test_rows_of_a_list_that_say_no_camera_or_time_have_those_given(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.csv").write_text(
        "path,camera,time\ncrops/0_c1_0.jpg,gate,2026-05-04\ncrops/0_c1_1.jpg,,\n"
    )
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "l.csv", *g, "--camera", " hall ", "--time", "2026-05-05")
    with Gallery.open("g") as gallery:
        assert {(s.source, s.camera, format_time(s.time)[:10]) for s in gallery.find()} == {
            ("crops/0_c1_0.jpg", "gate", "2026-05-04"),
            ("crops/0_c1_1.jpg", "hall", "2026-05-05"),
        }


def test_the_page_says_what_the_command_says(
    crops: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Threshold(0.01, 0.61, 0.6, 0.62, extrapolated=True)
    monkeypatch.setattr(
        "crosscam.gallery.command._judged",
        lambda options, gallery, found: Judgment(
            (0.973, *[0.02] * (len(found) - 1)),
            ("match", *["unlikely"] * (len(found) - 1)),
            True, line, 3, "other people", ("a remark on the line.",),
        ),
    )  # fmt: skip
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "crops", *g)
    text = call(capsys, "search", "crops/0_c1_0.jpg", *g, "--top", "3", "--out", "found.html")
    said = "robably seen here: above 0.610, which 1.0% of strangers&#x27; searches pass"
    page = Path("found.html").read_text()
    for place in (html.escape(text), page):
        assert said in place
        assert "extrapolated from fewer people" in place
        assert "a remark on the line." in place
    assert page.count("<span>97.3% match</span>") == 1
    assert page.count("<span>2.0% unlikely</span>") == 2
    assert "Calibrated on other people." in page


def test_a_search_is_judged_by_the_line_that_is_asked_for(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "crops", *g)
    scores, same = [0.9] * 50 + [i / 100 for i in range(50)], [True] * 50 + [False] * 50
    made = fit(of_pairs(scores, same), model=ToyEncoder().hash, data="toys")
    made.save(Path("c.json"))
    ask = ("search", "crops/0_c1_0.jpg", *g, "--calibration", "c.json")
    for words, far in (((), 0.01), (("--far", "0.1"), 0.1)):
        found = values(capsys, *ask, *words)
        assert found["decision"]["far"] == far
        assert found["decision"]["threshold"] == round(made.threshold(far).score, 4)
        assert not any("calibration" in note for note in found["notes"])
    assert "far must be in" in call(capsys, *ask, "--far", "2", status=1)
    both = call(capsys, ask[0], "crops/0_c1_1.jpg", *ask[1:])
    assert "note: the calibration is of single pictures" in both


def test_a_terminal_is_not_told_what_to_do(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "add", "crops", "--gallery", "g", "--model", "m")
    with Gallery.open("g") as gallery:  # as older versions kept it
        odd = {s.id: dataclasses.replace(s, camera="\x1b[31mRED").payload() for s in gallery.find()}
        gallery.points.replace_payloads(odd)
    for words in (("stats",), ("search", "--sighting", next(iter(odd)))):
        text = call(capsys, *words, "--gallery", "g")
        assert "\ufffd[31mRED" in text
        assert "\x1b" not in text


def test_forgetting_an_untidy_camera_counts_and_deletes_no_other(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "add", "crops", "--gallery", "g", "--model", "m")
    with Gallery.open("g") as gallery:  # as older versions kept it
        old = dataclasses.replace(next(gallery.find(Where(cameras=("1",)))), camera="1 ")
        gallery.points.replace_payloads({old.id: old.payload()})
        left = len(gallery) - 1
    ask = ("forget", "--gallery", "g", "--camera", "1 ")
    assert "this deletes 1 sighting for good" in call(capsys, *ask, status=1)
    assert "1 sighting," in call(capsys, *ask, "--yes", "--later")
    assert values(capsys, "stats", "--gallery", "g")["sightings"] == left


def test_a_picture_that_is_there_is_enrolled_as_the_sighting_it_has(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "crops", *g, "--time", "2026-05-04T10:00Z", "--camera", "gate")
    Image.fromarray(toy.person(0, 9, 9)).save("new.png")
    assert main(["gallery", "enroll", "Ann", "crops/0_c1_0.jpg", *g]) == 0
    out, err = capsys.readouterr()
    with Gallery.open("g") as gallery:
        assert len(gallery) == 12
        (ann,) = gallery.people.sightings("Ann")
    assert (ann.camera, ann.source) == ("gate", "crops/0_c1_0.jpg")
    assert out == "1 sighting shows Ann\n"
    assert err == (
        f"note: crops/0_c1_0.jpg is in the gallery already, and is not added again: {ann.id}.\n"
    )
    text = call(capsys, "enroll", "Ann", "new.png", "crops/0_c2_0.jpg", *g, "--same-frame")
    assert text == "2 sightings show Ann\n"
    assert values(capsys, "stats", "--gallery", "g")["sightings"] == 13
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    Path("text.jpg").write_text("x")
    for name in ("broken.jpg", "text.jpg", "gone.jpg"):
        assert "nobody was enrolled" in call(capsys, "enroll", "Ann", name, *g, status=1)


def test_what_is_not_there_is_not_forgotten(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g")
    call(capsys, "add", "crops", *g, "--model", "m")
    with Gallery.open("g") as gallery:
        one = next(gallery.find()).id
    strange = "00000000-0000-5000-8000-000000000000"
    for yes in ((), ("--yes",)):
        for asked, said in (
            (("--camera", "77"), "no sighting is of camera '77'"),
            (("--person", "Nobody"), "nobody in the gallery is called 'Nobody'"),
            (("--id", one, strange), f"no sighting {strange}"),
        ):
            assert said in call(capsys, "forget", *g, *asked, *yes, status=1)
    assert "no sighting fits" in call(capsys, "forget", *g, "--before", "1971-01-01", status=1)
    nothing = values(capsys, "forget", *g, "--before", "1971-01-01", "--yes")  # a nightly job
    assert nothing["sightings"] == 0
    assert values(capsys, "stats", *g)["sightings"] == 12


def test_a_filter_that_fits_nothing_is_explained(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "crops", *g)
    ask = ("search", "crops/0_c1_0.jpg", *g)
    text = call(capsys, *ask, "--camera", "01", "7")
    assert "no sighting is of camera 01, 7. Cameras of this gallery: 1, 2." in text
    assert "nothing fits." in text
    assert "no sighting of this gallery has a time" in call(capsys, *ask, "--after", "2026-01-01")
    assert "note: no sighting" not in call(capsys, *ask, "--camera", "1", "7")  # something fits


def test_nothing_is_left_of_a_gallery_that_nothing_was_added_to(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("broken_c1.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    Path("l.csv").write_text("path,camid\ncrops/0_c1_0.jpg,1\n")
    for source in ("empty", "l.csv", "broken_c1.jpg"):
        call(capsys, "add", source, "--gallery", "g", "--model", "other", status=1)
        assert not list(Path().glob("g/[!l]*"))  # at most the lock
        assert "is not a gallery" in call(capsys, "stats", "--gallery", "g", status=1)
    call(capsys, "add", "crops", "--gallery", "g", "--model", "m")  # of no other model
    call(capsys, "add", "broken_c1.jpg", "--gallery", "g", "--model", "m", status=1)
    assert values(capsys, "stats", "--gallery", "g")["sightings"] == 12  # what is there stays


def test_the_cameras_of_query_pictures_are_left_out_or_it_is_said(
    crops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = ("--gallery", "g", "--model", "m")
    call(capsys, "add", "crops", *g)
    for old, new in (("0_c1_0", "copy"), ("0_c2_1", "b_c1")):
        Path(f"{new}.jpg").write_bytes(Path(f"crops/{old}.jpg").read_bytes())
    for name in ("strange", "seen_c1"):
        Image.fromarray(toy.person(0, 9, 9)).save(f"{name}.png")

    def ask(*words: str) -> tuple[set[str], str]:
        found = values(capsys, "search", *words, "--exclude-own-cameras", *g)
        *notes, uncalibrated = found["notes"]
        assert "the model has no calibration" in uncalibrated
        return {r["camera"] for r in found["results"]}, " ".join(notes)

    assert ask("seen_c1.png") == ({"2"}, "")  # by its name
    assert ask("copy.jpg") == ({"2"}, "")  # by its bytes
    assert ask("b_c1.jpg")[0] == {"1"}  # bytes before names
    assert ask("seen_c1.png", "--query-camera", "2") == ({"1"}, "")
    cameras, note = ask("strange.png")
    assert cameras == {"1", "2"}
    assert "camera of the query is not known, so that none was left out" in note
    cameras, note = ask("strange.png", "seen_c1.png")
    assert cameras == {"2"}
    assert "the camera of 1 of 2 query pictures is not known, so that it was not" in note


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, **attributes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("add nowhere --gallery g --model m", "there is nothing at nowhere"),
        ("add l.csv --gallery g --model m --people folder", "names people in its column person"),
        ("add crops l.csv --gallery g --model m --people name", "--people name says nothing of l"),
        ("add crops/0_c1_0.jpg --gallery g --model m --people folder", "give the folder that"),
        ("add v.mp4 --gallery g --model m --detector hog --people folder", "enroll them afterw"),
        ("add crops --gallery g --model m --camera unknown", "cannot be called 'unknown'"),
        ("add crops --gallery g --model m --time 20260504", "write 2026-05-04, or as seconds"),
        ("add x.txt --gallery g --model m", "no folder, no .csv, no video"),
        ("add crops --gallery g --model m --time noon", "'noon' is not a time"),
        ("add crops --gallery g --model m --timezone Mars/Base", "is not a time zone"),
        ("add broken --gallery g --model m", "nothing could be added"),
        ("search crops/0_c1_0.jpg --gallery nowhere --model m", "is not a gallery"),
        ("stats --gallery crops", "is not a gallery"),
        ("forget --gallery nowhere", "say what to forget"),
        ("stats --gallery http://127.0.0.1:9", "give --pictures"),
        ("stats --gallery http://127.0.0.1:9 --pictures p", "no Qdrant server answers"),
    ],
)
def test_mistakes_are_named(
    crops: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    for name in ("x.txt", "v.mp4", "l.csv"):
        Path(name).write_text("x")
    Path("broken").mkdir()
    Path("broken/a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    assert message in call(capsys, *words.split(), status=1)
    assert not Path("g/gallery.json").exists()
