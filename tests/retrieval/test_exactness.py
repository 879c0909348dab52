"""The same bits whatever the threads, the blocks, the BLAS, the device and the kernels."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import MissingExtraError
from crosscam.retrieval import RerankSettings, compiled, evaluate, fallback, kernels, top_k
from crosscam.retrieval import device as on_device
from crosscam.retrieval.inputs import COSINE, EUCLIDEAN
from crosscam.retrieval.pairs import FeaturePairs
from crosscam.retrieval.rank import TileMaker

# Tight clusters far from the origin with many duplicates: nearly every decision is a close call.
CLOSE = list(naive.clusters(30, 400, ids=25, size=70, noise=2e-4, copies=150))
CLOSE[0] = CLOSE[0] * np.float32(1e-3) + np.float32(1.0)
CLOSE[3] = CLOSE[3] * np.float32(1e-3) + np.float32(1.0)
WIDE = list(naive.clusters(30, 400, ids=25, size=70, noise=4.0, copies=150))
RERANK = RerankSettings(k1=8, k2=3)


def outcome(data: list[Any], metric: str, **options: Any) -> list[np.ndarray]:
    """Everything that must not move by a bit."""
    m = evaluate(*data, metric=metric, **options)
    again = evaluate(*data, metric=metric, rerank=RERANK, **options)
    ranking = top_k(data[0], data[3], 30, metric=metric, **options)
    values = [part for one in (m, again) for part in (one.cmc, *vars(one.per_query).values())]
    return [*values, ranking.indices, ranking.scores]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("data", [CLOSE, WIDE], ids=["close", "wide"])
def test_threads_blocks_devices_and_kernels_change_no_bit(data: list[Any], metric: str) -> None:
    first = outcome(data, metric, threads=1)
    for options in (
        {"threads": 3, "block": 64},
        {"threads": 2, "block": 37},
        {"threads": 1, "block": 211},
        {"device": "numpy", "threads": 2, "block": 100},
        {"device": "torch:cpu", "block": 128},
    ):
        for a, b in zip(first, outcome(data, metric, **options), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(options))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_any_error_within_the_bound_changes_no_bit(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles are falsified by most of their error bound; the rest is for the product's own error."""
    first = outcome(CLOSE, metric)
    honest = TileMaker.tile
    rng = np.random.default_rng(0)
    moved = []

    def falsified(self: TileMaker, rows: slice, *args: Any) -> np.ndarray:
        tile = honest(self, rows, *args)
        error = 0.8 * self.pairs.error[rows, None] * rng.choice([-1.0, 1.0], tile.shape)
        before = np.argsort(-tile, axis=1, kind="stable")
        tile += error.astype(np.float32)
        moved.append((before != np.argsort(-tile, axis=1, kind="stable")).any())
        return tile

    monkeypatch.setattr(TileMaker, "tile", falsified)
    for a, b in zip(first, outcome(CLOSE, metric, threads=1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(moved)  # the falsified tiles alone would have ranked differently


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_error_bound_holds(metric: str) -> None:
    for data in (CLOSE, WIDE):
        pairs = FeaturePairs(data[0], data[3], metric, kernels=kernels.load())
        make = TileMaker(pairs)
        tile = make.tile(slice(0, 30), make.pack(0, 400), 0, 400)
        rows, columns = (part.ravel() for part in np.indices(tile.shape))
        exact = pairs.unit * pairs.exact(rows, columns).reshape(tile.shape)
        assert (np.abs(tile - exact) <= pairs.error[:, None]).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_rows_tie_wherever_they_stand(metric: str) -> None:
    """One vector in 1,000 places among others: its places come back in order, scores equal."""
    rng = np.random.default_rng(3)
    gallery = rng.standard_normal((3000, 129)).astype(np.float32)
    places = np.sort(rng.choice(3000, 1000, replace=False))
    gallery[places] = gallery[places[0]]
    query = gallery[places[:1]] + np.float32(1e-3) * rng.standard_normal((5, 129)).astype("f4")
    ranking = top_k(query, gallery, 1000, metric=metric, block=501)
    np.testing.assert_array_equal(ranking.indices, np.tile(places, (5, 1)))
    assert (np.ptp(ranking.scores, axis=1) == 0).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_collapsed_model_is_ranked_by_gallery_row(metric: str) -> None:
    """All features equal: every comparison is a tie."""
    pids = np.arange(300) % 7
    m = evaluate(
        np.ones((7, 33), np.float32), np.arange(7), None,
        np.ones((300, 33), np.float32), pids, None,
        metric=metric, same_camera="keep", block=50,
    )  # fmt: skip
    assert m.per_query.first_match.tolist() == list(range(1, 8))


def test_top_k_is_the_head_of_a_stable_sort() -> None:
    data = list(naive.clusters(15, 200, copies=90))
    data[3] = np.abs(data[3])  # all cosines positive, so that one sign below fits all metrics
    data[0] = np.abs(data[0])
    for metric in ("cosine", "euclidean", "sqeuclidean"):
        score = naive.scores(data[0], data[3], metric)
        expected = np.argsort(-score, axis=1, kind="stable")
        for k in (1, 7, 200):
            for device in ("cpu", "numpy", "torch:cpu"):
                found = top_k(data[0], data[3], k, metric=metric, device=device, block=33)
                np.testing.assert_array_equal(found.indices, expected[:, :k])
        best = np.abs(np.take_along_axis(score, expected, axis=1))
        shown = {"cosine": best, "sqeuclidean": best, "euclidean": np.sqrt(best)}[metric]
        np.testing.assert_allclose(found.scores, shown, rtol=1e-6, atol=1e-7)
        assert found.higher_is_better == (metric == "cosine")


@pytest.mark.parametrize(("room", "sent"), [(1 << 30, 10), (20_000, 7 + 3 * 30), (0, 10 * 30)])
def test_a_device_keeps_the_blocks_of_a_gallery_that_fit(
    room: int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 blocks of 33 rows (3,168 bytes each) and one of 3, gone through 30 times."""
    starts: list[int] = []
    pack = FeaturePairs.pack_gallery

    def counted(self: FeaturePairs, start: int, stop: int, out: Any) -> Any:
        starts.append(start)
        return pack(self, start, stop, out)

    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, 24)).astype(np.float32) for n in (90, 300))
    expected = top_k(query, gallery, 5, metric="cosine")
    monkeypatch.setattr(FeaturePairs, "pack_gallery", counted)
    monkeypatch.setattr(on_device, "_KEPT_BYTES", room)
    found = top_k(query, gallery, 5, metric="cosine", device="torch:cpu", block=33)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert len(starts) == sent


def test_kernels_agree_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 31, 32, 33, 200):
        x, y = (rng.standard_normal((50, size)).astype(np.float32) for _ in range(2))
        rows, columns = rng.integers(0, 50, (2, 300))
        for kind in (COSINE, EUCLIDEAN):
            outs = []
            for module in (compiled, fallback):
                inverse, out = np.empty(50), np.empty(300)
                module.square_norms(x, inverse)
                module.exact_pairs(kind, x, y, inverse, 1 / inverse, rows, columns, out)
                outs.append(out)
            np.testing.assert_array_equal(*outs)


def test_the_fallback_lacks_only_what_streams() -> None:
    def functions(module: ModuleType) -> set[str]:
        found = {k for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
        return {k for k in found if getattr(module, k).__module__ == module.__name__}

    assert functions(compiled) - functions(fallback) == {"offer_rows", "offer_columns"}
    assert functions(fallback) <= functions(compiled)
    assert (compiled.STREAMS, fallback.STREAMS) == (True, False)


def test_without_numba_the_same_numbers_come_out() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import naive_retrieval as naive\n"
        "from crosscam.retrieval import evaluate, kernels, RerankSettings\n"
        "assert kernels.load().__name__ == 'crosscam.retrieval.fallback'\n"
        "data = naive.clusters(20, 100)\n"
        "print(evaluate(*data).to_json(), evaluate(*data, rerank=RerankSettings(8, 3)).to_json())"
    )
    folder = naive.__file__.rsplit("/", 1)[0]
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, folder],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    data = naive.clusters(20, 100)
    assert out.strip() == f"{evaluate(*data).to_json()} {evaluate(*data, rerank=RERANK).to_json()}"


def test_importing_retrieval_brings_neither_torch_nor_numba() -> None:
    code = "import sys, crosscam.retrieval; print({'torch', 'numba', 'scipy'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "set()"


def test_a_torch_device_without_torch_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="needs torch"):
        evaluate(*WIDE, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_gpu_changes_no_bit(metric: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for data in (CLOSE, WIDE):
        first = outcome(data, metric)
        for a, b in zip(first, outcome(data, metric, device="cuda", block=256), strict=True):
            np.testing.assert_array_equal(a, b)
