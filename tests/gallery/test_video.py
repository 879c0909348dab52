"""Films to sightings, detectors in ONNX files, and following people."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy
from film import FPS, SIZE, Knowing, Walker, shoot
from onnx import TensorProto, helper, numpy_helper
from toy_gallery import Places, ToyEncoder

from crosscam.errors import DataError, InputError, MissingExtraError
from crosscam.gallery import Gallery
from crosscam.gallery.video import (
    ByteTrack,
    Detections,
    HogDetector,
    OnnxDetector,
    Sampling,
    frames,
    from_video,
    overlap,
)


def toys(*places: tuple[tuple[float, float], tuple[float, float]], **more: Any) -> list[Walker]:
    return [
        Walker(toy.person(n, 1, 1, (128, 64)), np.ones((128, 64), bool), start, step, **more)
        for n, (start, step) in enumerate(places)
    ]


def test_frames_are_sampled_by_time(tmp_path: Path) -> None:
    path = shoot(tmp_path / "a.mp4", [], 25)
    for every, expected in ((0.1, list(range(25))), (0.5, [0, 5, 10, 15, 20]), (1, [0, 10, 20]),
                            (0.25, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23])):  # fmt: skip
        found = list(frames(path, every))
        assert [f.number for f in found] == expected
        np.testing.assert_allclose([f.seconds for f in found], np.array(expected) / FPS, atol=1e-6)
        assert {f.picture.shape for f in found} == {(*SIZE, 3)}
    detector = Knowing([])
    for frame in frames(path, 0.3):
        detector.detect(frame.picture)
    assert detector.numbers == [0, 3, 6, 9, 12, 15, 18, 21, 24]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all")
    whole = shoot(tmp_path / "a.mp4", [], 20).read_bytes()
    with pytest.raises(DataError, match="no video at"):
        list(frames(tmp_path / "gone.mp4", 1))
    with pytest.raises(DataError, match="cannot be read as a video"):
        list(frames(tmp_path / "text.mp4", 1))
    # An MKV that was cut off still has its first frames; they are not thrown away.
    cut = tmp_path / "cut.mkv"
    shoot(cut, [], 20)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    assert 5 < len(list(frames(cut, 0.01))) < 20
    assert len(whole) > 1000


def test_every_person_is_one_track_with_their_best_crops(tmp_path: Path) -> None:
    # Two cross the picture towards each other, one at a time further down; a third is there for
    # one frame only.
    walkers = [
        *toys(((10, 5), (2, 0)), ((250, 90), (-2, 0))),
        Walker(toy.person(7, 1, 1, (100, 50)), np.ones((100, 50), bool), (130, 20), (0, 0), 30, 30),
    ]
    path = shoot(tmp_path / "a.mp4", walkers, 80)
    sampling = Sampling(every=0.2, crops=3, apart=1.0, shortest=3)
    items = list(from_video(path, Knowing(walkers), camera="gate", start=1000.0, sampling=sampling))
    tracks: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        tracks[item.track].append(item)
    assert len(tracks) == 2
    seen = set()
    for own in tracks.values():
        assert len(own) == 3
        times = [i.time for i in own]
        assert times == sorted(times)
        assert min(np.diff(times)) >= 1.0 - 1e-6
        shown = set()
        for item in own:
            number = int(item.frame.split(":")[1])
            assert item.time == pytest.approx(1000 + number / FPS, abs=1e-6)
            assert item.camera == "gate"
            assert 0 < item.quality <= 0.9
            boxes = [w.box(number) for w in walkers]
            at = [n for n, b in enumerate(boxes) if b and item.box == pytest.approx(b)]
            assert len(at) == 1
            shown.add(at[0])
            left, top, right, bottom = map(int, item.box)
            assert item.picture.shape == (bottom - top, right - left, 3)
            # It is the person and not the scene: near the picture that was pasted.
            pasted = walkers[at[0]].picture
            assert np.abs(item.picture.astype(int) - pasted).mean() < 25
        assert len(shown) == 1
        seen |= shown
    assert seen == {0, 1}


def test_the_same_film_gives_the_same_sightings(
    places: Places, encoder: ToyEncoder, tmp_path: Path
) -> None:
    walkers = toys(((10, 5), (3, 0)), ((250, 90), (-3, 0)))
    path = shoot(tmp_path / "a.mp4", walkers, 40)
    with places.create(encoder) as gallery:
        first = gallery.add(from_video(path, Knowing(walkers), camera="1"), batch=2)
        assert first.new == len(gallery) > 2
        again = gallery.add(from_video(path, Knowing(walkers), camera="1"))
        assert (again.new, again.present) == (0, first.new)
        # Both stand in one frame again and again: only one of them can be the answer there.
        found = gallery.search(pictures=[walkers[0].picture], top=20, once_per_frame=True)
        tracks = {h.sighting.track for h in found.hits}
        assert len({h.sighting.frame for h in found}) == len(found)
        assert found.hits[0].sighting.track in tracks
        assert {s.time for s in gallery.find()} == {None}
        assert {s.source.split("#")[0] for s in gallery.find()} == {str(path)}


@pytest.mark.slow
def test_rendered_people_in_a_film_are_found_again(tmp_path: Path, encoder: ToyEncoder) -> None:
    from crosscam.synth.camera import draw_camera
    from crosscam.synth.identity import draw_identity
    from crosscam.synth.person import make_person
    from crosscam.synth.render import Look, render_shot

    walkers = []
    for n in range(3):
        person = make_person(draw_identity(5, n, families=0.0))
        shot = render_shot(person, draw_camera(5, 1), n, Look())
        picture, mask = shot.image[::2, ::2], shot.part[::2, ::2] > 0
        start, step = [((5, 5), (2.2, 0)), ((245, 60), (-2.2, 0)), ((20, 100), (2, 0))][n]
        walkers.append(Walker(picture, mask, start, step))
    path = shoot(tmp_path / "street.mp4", walkers, 100)
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add(from_video(path, Knowing(walkers), camera="1", start=0.0))
        by_track = defaultdict(list)
        for s in gallery.find():
            by_track[s.track].append(s)
        # Where people cross, the boxes alone do not always tell them apart; most is one person.
        assert 3 <= len(by_track) <= 6
        right = total = 0
        for s in gallery.find():
            number = int(s.frame.split(":")[1])
            own = [n for n, w in enumerate(walkers) if s.box == pytest.approx(w.box(number))]
            hits = gallery.search(sightings=[s.id], top=1, exact=True).hits
            at = int(hits[0].sighting.frame.split(":")[1])
            other = [n for n, w in enumerate(walkers)
                     if hits[0].sighting.box == pytest.approx(w.box(at))]  # fmt: skip
            assert len(own) == len(other) == 1
            right += own == other
            total += 1
        assert total >= 9
        assert right / total >= 0.8


# --- detectors ------------------------------------------------------------------------------------


def save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict) -> Path:
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def yolox(path: Path, rows: np.ndarray) -> Path:
    """Gives ``rows`` [84, 5 + classes], their objectness times the mean of the first channel."""
    first = np.zeros((1, 3, 1, 1), np.float32)
    first[0, 0] = 1 / (64 * 64 * 255)
    where = np.zeros((1, 1, rows.shape[1]), np.float32)
    where[0, 0, 4] = 1
    return save(
        path,
        [
            helper.make_node("Mul", ["images", "first"], ["a"]),
            helper.make_node("ReduceSum", ["a"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["where", "mean"], ["b"]),
            helper.make_node("Add", ["rest", "b"], ["factor"]),
            helper.make_node("Mul", ["rows", "factor"], ["output"]),
        ],
        [("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [("output", TensorProto.FLOAT, [1, *rows.shape])],
        {"first": first, "where": where, "rest": (1 - where), "rows": rows[None]},
    )


def test_a_yolox_is_fed_and_read_as_it_was_exported(tmp_path: Path) -> None:
    # 64 x 64: strides 8, 16, 32 make 64 + 16 + 4 cells.  Cell 64 + 4 * 1 + 2 has stride 16 and
    # the corner (2, 1).
    rows = np.zeros((84, 7), np.float32)
    rows[70] = [0.5, 0.25, np.log(2), np.log(3), 1, 0.9, 0]
    rows[71] = [-0.4, 0.25, np.log(2), np.log(3), 1, 0.8, 0]  # nearly the same box: suppressed
    rows[5] = [0.0, 0.0, 0.0, 0.0, 1, 0.0, 1]  # another class
    detector = OnnxDetector(yolox(tmp_path / "y.onnx", rows), threshold=0.3)
    assert detector.kind == "yolox"
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[:] = [10, 20, 204]  # red, green, blue
    found = detector.detect(frame)
    # Scaled by 0.32 to 32 x 64; the lower half is gray 114.  The first channel is blue.
    blue = (204 + 114) / 2 / 255
    np.testing.assert_allclose(found.scores, [0.9 * blue], rtol=1e-5)
    center, size = np.array([2.5, 1.25]) * 16, np.array([2, 3]) * 16
    expected = np.concatenate([center - size / 2, center + size / 2]) / 0.32
    np.testing.assert_allclose(found.boxes, expected[None], rtol=1e-5)
    other = OnnxDetector(tmp_path / "y.onnx", threshold=0.3, person=1).detect(frame)
    # Cell 5 of stride 8 has the corner (5, 0).
    np.testing.assert_allclose(other.boxes, [np.array([36, -4, 44, 4]) / 0.32], rtol=1e-5)


def test_a_yolox_that_gives_pixels_is_read_as_such(tmp_path: Path) -> None:
    rows = np.zeros((84, 6), np.float32)
    rows[:, 2:4] = 1
    rows[3] = [40, 20, 32, 24, 1, 0.9]
    detector = OnnxDetector(yolox(tmp_path / "y.onnx", rows), threshold=0.3)
    found = detector.detect(np.full((64, 64, 3), 255, np.uint8))
    np.testing.assert_allclose(found.boxes, [[24, 8, 56, 32]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)


def test_an_rtdetr_is_given_the_size_of_the_frame(tmp_path: Path) -> None:
    shares = np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [0.5, 0.5, 0.7, 1]]], np.float32)
    path = save(
        tmp_path / "r.onnx",
        [
            helper.make_node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["size", "size"], ["twice"], axis=1),
            helper.make_node("Mul", ["shares", "twice"], ["boxes"]),
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["least", "mean"], ["scores"]),
            helper.make_node("Identity", ["classes"], ["labels"]),
        ],
        [("images", TensorProto.FLOAT, [1, 3, 32, 48]),
         ("orig_target_sizes", TensorProto.INT64, [1, 2])],
        [("labels", TensorProto.INT64, [1, 3]), ("boxes", TensorProto.FLOAT, [1, 3, 4]),
         ("scores", TensorProto.FLOAT, [1, 3])],
        {"shares": shares, "least": np.array([[0.9, 0.95, 0.4]], np.float32),
         "classes": np.array([[0, 7, 0]])},
    )  # fmt: skip
    detector = OnnxDetector(path)
    assert (detector.kind, detector.size) == ("rtdetr", (32, 48))
    found = detector.detect(np.full((100, 200, 3), 255, np.uint8))
    np.testing.assert_allclose(found.boxes, [[20, 20, 100, 60]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)  # white is 1


def test_a_detr_gives_logits_and_centers(tmp_path: Path) -> None:
    logits = np.full((1, 2, 6), -9, np.float32)
    logits[0, 0, 1], logits[0, 1, 0] = 1.0, 3.0
    path = save(
        tmp_path / "d.onnx",
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
            helper.make_node("Add", ["logits", "mean"], ["labels"]),
            helper.make_node("Identity", ["centers"], ["dets"]),
        ],
        [("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [("dets", TensorProto.FLOAT, [1, 2, 4]), ("labels", TensorProto.FLOAT, [1, 2, 6])],
        {"logits": logits, "centers": np.array([[[0.5, 0.25, 0.2, 0.5]] * 2], np.float32)},
    )
    frame = np.zeros((100, 200, 3), np.uint8)
    found = OnnxDetector(path, person=1).detect(frame)
    np.testing.assert_allclose(found.boxes, [[80, 0, 120, 50]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-1.0))], rtol=1e-6)
    # Normalized black is the mean of -mean / std: -1.98.
    found = OnnxDetector(path, person=1, normalize=True, threshold=0.2).detect(frame)
    mean = -np.mean(np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225]))
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-1.0 - mean))], rtol=1e-5)


def test_detectors_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("x")
    odd = save(
        tmp_path / "odd.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [("y", TensorProto.FLOAT, [1, 3, 32, 32])],
        {},
    )
    with pytest.raises(DataError, match="no detector at"):
        OnnxDetector(tmp_path / "gone.onnx")
    with pytest.raises(DataError, match="not an ONNX file"):
        OnnxDetector(tmp_path / "text.onnx")
    with pytest.raises(DataError, match=r"gives \[1, 3, 32, 32\]; a YOLOX gives"):
        OnnxDetector(odd).detect(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="between 0 and 1"):
        OnnxDetector(odd, threshold=2)
    with pytest.raises(InputError, match=r"every must be 0\.001 or more"):
        Sampling(every=0)


@pytest.mark.slow
def test_opencvs_own_detector_finds_rendered_people(tmp_path: Path, encoder: ToyEncoder) -> None:
    """A real detector all the way: a film, its people, their tracks, a search."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "HOGDescriptor"):
        pytest.skip("this OpenCV has no people detector")
    from crosscam.synth.camera import draw_camera
    from crosscam.synth.identity import draw_identity
    from crosscam.synth.person import make_person
    from crosscam.synth.render import Look, render_shot

    walkers = []
    for n, (start, step) in enumerate([((40, 60), (5, 0)), ((420, 110), (-3, 0))]):
        person = make_person(draw_identity(5, n + 1, families=0.0))
        shot = render_shot(person, draw_camera(5, n), n + 1, Look())
        walkers.append(Walker(shot.image, shot.part > 0, start, step))
    path = shoot(tmp_path / "street.mp4", walkers, 30, (480, 640))

    detector = HogDetector()
    seen = hits = alarms = 0
    for frame in frames(path, 0.1):
        true = []
        for w in walkers:
            left, top = w.box(frame.number)[:2]
            y, x = np.nonzero(w.mask)
            true.append([left + x.min(), top + y.min(), left + x.max() + 1, top + y.max() + 1])
        shared = overlap(np.array(true, float), detector.detect(frame.picture).boxes)
        seen += len(true)
        hits += int((shared.max(1, initial=0) >= 0.5).sum())
        alarms += int((shared.max(0, initial=0) < 0.3).sum())
    assert seen == 60
    assert hits / seen >= 0.5  # it is weak
    assert alarms <= seen / 4

    with Gallery.create(tmp_path / "g", encoder) as gallery:
        added = gallery.add(from_video(path, detector, camera="street", start=0.0))
        assert added.new >= 2
        best = gallery.search(pictures=[walkers[0].picture], top=1).hits[0].sighting
        assert best.camera == "street"
        assert best.box is not None


def test_opencvs_own_detector_sees_nobody_where_nobody_can_be() -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "HOGDescriptor"):
        pytest.skip("this OpenCV has no people detector")
    detector = HogDetector()
    assert len(detector.detect(np.zeros((100, 300, 3), np.uint8)).boxes) == 0
    assert len(detector.detect(np.full((300, 300, 3), 90, np.uint8)).boxes) == 0
    with pytest.raises(InputError, match=r"at least 0\.5"):
        HogDetector(threshold=0.2)


def test_an_opencv_without_a_people_detector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.delattr(cv2, "HOGDescriptor", raising=False)
    with pytest.raises(MissingExtraError, match="opencv-python<5"):
        HogDetector()


def test_overlap_is_intersection_over_union() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 5]], np.float64)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]], np.float64)
    np.testing.assert_allclose(overlap(a, b), [[1 / 7, 1, 0], [0, 0, 0]])


def test_following_keeps_numbers_over_a_gap() -> None:
    tracker = ByteTrack(rate=5)
    numbers = []
    for k in range(12):
        rows = [[10 + 4 * k, 10, 60 + 4 * k, 110]]
        if not 5 <= k <= 7:  # out of sight
            rows.append([300 - 4 * k, 10, 350 - 4 * k, 110])
        boxes = np.array(rows[::-1], np.float32)
        numbers.append(tracker.update(Detections(boxes, np.full(len(rows), 0.9, np.float32)))[::-1])
    first = {int(n[0]) for n in numbers if n[0] >= 0}
    second = {int(n[1]) for n in numbers if len(n) > 1 and n[1] >= 0}
    assert len(first) == len(second) == 1
    assert first != second
    assert tracker.update(
        Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    ).shape == (0,)
