"""Features files of anyone."""

from __future__ import annotations

import pickle
from pathlib import Path

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import FeatureError
from crosscam.retrieval import RerankSettings, evaluate, score_file

DATA = naive.clusters(20, 60)
NAMES = (
    "query_features", "query_pids", "query_camids",
    "gallery_features", "gallery_pids", "gallery_camids",
)  # fmt: skip


def write(folder: Path, *leave_out: str) -> Path:
    path = folder / "features.npz"
    arrays = dict(zip(NAMES, DATA, strict=True))
    np.savez(path, **{name: part for name, part in arrays.items() if name not in leave_out})
    return path


def test_a_file_scores_as_its_arrays_do(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert score_file(path).to_json() == evaluate(*DATA).to_json()
    found = score_file(str(path), rerank=True, ap="trapezoid", metric="euclidean")
    expected = evaluate(*DATA, rerank=RerankSettings(), ap="trapezoid", metric="euclidean")
    assert found.to_json() == expected.to_json()
    settings = RerankSettings(k1=5, k2=2)
    found = score_file(path, rerank=settings)
    assert found.to_json() == evaluate(*DATA, rerank=settings).to_json()


def test_cameras_may_be_missing_if_they_are_not_needed(tmp_path: Path) -> None:
    path = write(tmp_path, "query_camids", "gallery_camids")
    with pytest.raises(FeatureError, match="query_camids and gallery_camids: None given"):
        score_file(path)
    keep = evaluate(*DATA, same_camera="keep")
    assert score_file(path, same_camera="keep").to_json() == keep.to_json()


def test_files_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="there is no file"):
        score_file(tmp_path / "none.npz")
    with pytest.raises(
        FeatureError, match="lacks query_pids; it holds query_features, query_camids"
    ):
        score_file(write(tmp_path, "query_pids"))
    with pytest.raises(FeatureError, match="is a folder"):
        score_file(tmp_path)
    for name, content, said in (
        ("text.npz", b"hello", "is not an .npz file"),
        ("empty.npz", b"", "is not an .npz file"),
        ("pickle.npz", pickle.dumps({"query_features": [1]}), "is not an .npz file"),
        ("zip.npz", b"PK\x03\x04xx", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FeatureError, match=said) as caught:
            score_file(tmp_path / name)
        assert "allow_pickle" not in str(caught.value)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(FeatureError, match="holds a single array"):
        score_file(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", **dict.fromkeys(NAMES, np.array([{}], dtype=object)))
    with pytest.raises(FeatureError, match=r"query_features in .* holds Python objects") as caught:
        score_file(tmp_path / "objects.npz")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("kind", [str, object])
def test_text_ids_are_told_how_to_become_numbers(kind: type) -> None:
    q, q_ids, q_cams, g, g_ids, g_cams = DATA
    people = (np.array([f"person {i}" for i in ids], kind) for ids in (q_ids, g_ids))
    query_pids, gallery_pids = people
    with pytest.raises(FeatureError, match="query_pids must be whole numbers, got text") as caught:
        evaluate(q, query_pids, q_cams, g, gallery_pids, g_cams)
    advice, _, special = str(caught.value).partition(": n = ")[2].partition(". ")
    assert special == "Then give -1 to what is junk and 0 to distractors, if there are."
    names = {"np": np, "query_pids": query_pids, "gallery_pids": gallery_pids}
    exec(f"n = {advice}", names)  # what the message says does it
    found = evaluate(q, names["query_pids"], q_cams, g, names["gallery_pids"], g_cams)
    assert found.to_json() == evaluate(*DATA).to_json()


@pytest.mark.parametrize("kind", [str, object])
def test_numbers_in_quotes_keep_what_they_mean(kind: type) -> None:
    """-1 is junk, 0 a distractor: numbered like names they would be people."""
    q, q_ids, q_cams, g, g_ids, g_cams = DATA
    g_ids = np.where(np.arange(len(g_ids)) % 7 == 0, -1, g_ids)
    texts = np.array([str(i) for i in g_ids], kind)
    with pytest.raises(FeatureError, match="got text") as caught:
        evaluate(q, q_ids, q_cams, g, texts, g_cams)
    advice = str(caught.value).rpartition(" ")[2].rstrip(".")
    assert advice == "gallery_pids.astype(np.int64)"
    found = evaluate(q, q_ids, q_cams, g, texts.astype(np.int64), g_cams)
    assert found.to_json() == evaluate(q, q_ids, q_cams, g, g_ids, g_cams).to_json()


def test_tracks_that_are_text_name_no_query() -> None:
    tracks = np.array([f"track {i}" for i in range(len(DATA[3]))])
    with pytest.raises(FeatureError, match="Give each text a number") as caught:
        evaluate(*DATA, gallery_tracks=tracks)
    assert "query_tracks" not in str(caught.value)
