"""Measuring a model on a data set by the field's protocol, and showing what it ranked."""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import crosscam
from crosscam import viz
from crosscam.embedder import Embedder
from crosscam.files import write_atomically
from crosscam.retrieval import Metrics, RerankSettings, top_k
from crosscam.retrieval import evaluate as measure
from crosscam.types import Dataset, Sample
from crosscam.wording import counted

__all__ = ["COLLAPSED", "FEW", "Evaluation", "evaluate"]

COLLAPSED = 0.99
"""Median cosine between pictures from which on a network tells nothing apart.  Those that learned
something have up to 0.5 on Market-1501, color histograms 0.77, one that collapsed 0.9997."""

FEW = 10
"""Fewer queries or people than these make figures that say little."""

_LOOKED_AT = 1000  # pictures, for that median: eight megabytes of cosines


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one data set, and the features they come from."""

    model: Embedder
    dataset: Dataset
    metrics: Metrics
    query_features: npt.NDArray[np.float32]  # [Q, D]
    gallery_features: npt.NDArray[np.float32]  # [G, D]
    reranked: Metrics | None
    seconds: dict[str, float]
    seed: int = 0  # of the protocol's draws
    rerank: RerankSettings | None = None

    @functools.cached_property
    def likeness(self) -> float:
        """Median cosine between two pictures of the gallery; 1 if the model sees no difference.

        Of all pairs of 1,000 pictures at most, evenly spread.  Not the mean: in a network that
        collapsed a few pictures may still be far from all others.
        """
        every = -(-len(self.gallery_features) // _LOOKED_AT)
        some = self.gallery_features[::every]
        unit = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-30)
        cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        return float(np.median(cosines)) if len(cosines) else 0.0

    @property
    def warnings(self) -> list[str]:
        """What somebody should know before believing the figures."""
        found = []
        query, gallery = self.dataset.require_test()
        people = {query[i].pid for i in np.flatnonzero(self.metrics.per_query.valid)}
        strangers = {s.pid for s in gallery if s.pid >= 0}
        queries = self.metrics.n_valid_queries
        if len(strangers | people) == 1:
            found.append(
                "the test set shows a single person, so that every ranking is right whatever the "
                "model does. Add pictures of other people to the gallery."
            )
        elif queries < FEW or len(people) < FEW:
            found.append(
                f"the test set is small (queries that count: {queries:,}, people they show: "
                f"{len(people):,}), and its figures say little: one query more or less that is "
                f"right moves rank-1 by {1 / max(queries, 1):.1%}. Test on {FEW} people or more."
            )
        # In few pictures, or those of one person or two, likeness says nothing of the model.
        if self.likeness < COLLAPSED or len(strangers) < 3 or len(gallery) < FEW:
            return found
        return [
            *found,
            f"all pictures look the same to this model (median cosine {self.likeness:.4f}): its "
            "training has collapsed. Start from a trained network (the recipe finetune does, or "
            "method.backbone.pretrained=people-small method.backbone.ibn=true on a ResNet-18 of "
            "half width), take a lower optimizer.lr or a longer warm-up, or lower the weight of "
            "the triplet.",
        ]

    def summary(self) -> dict[str, Any]:
        """Everything that names and measures this evaluation, ready for JSON."""
        card = self.model.card or {}
        entry: dict[str, Any] = {
            "model": self.model.describe(),
            "data": self.dataset.name,
            "title": self.dataset.title,
            "variant": self.dataset.variant,
            "root": str(self.dataset.root.resolve()),
            "same_camera": self.dataset.protocol.same_camera,
            "crosscam": crosscam.__version__,
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            "test": {
                "size": list(self.model.preprocess.size),
                "interpolation": self.model.preprocess.interpolation,
                "flip": self.model.flip,
                "metric": self.model.metric,  # between unit vectors
                "seed": self.seed,
            },
            "trained": {k: v for k, v in card.items() if k in ("seed", "epochs")},
            "median_cosine": round(self.likeness, 5),
            **_numbers(self.metrics),
        }
        if self.reranked is not None:
            entry["reranked"] = _numbers(self.reranked)
            entry["test"]["rerank"] = asdict(self.rerank or RerankSettings())
        return entry

    def text(self) -> str:
        """The figures as lines for a terminal."""
        lines = [
            f"model    {self.model.describe()}",
            f"data     {self.dataset.title}",
            f"rules    {self.dataset.protocol.text()}",
            self.metrics.table(),
        ]
        if self.reranked is not None:
            lines += ["", "after k-reciprocal re-ranking", self.reranked.table()]
        return "\n".join([*lines, *(f"warning  {w}" for w in self.warnings)])

    def place_in(self, run: Path) -> Path:
        """A folder of its own below ``run`` for these figures.

        Another list of the same name, or other rules, do not take the place of what is there; the
        same data judged by the same rules do.
        """
        name = re.sub(r"[^\w.-]+", "-", self.dataset.title)
        here = self.summary()
        what = {k: here[k] for k in ("root", "variant", "same_camera")}
        for number in itertools.count(1):
            place = run / "evaluation" / (name if number == 1 else f"{name}-{number}")
            try:
                there = json.loads((place / "evaluation.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):  # nothing that could be lost
                return place
            if not isinstance(there, dict):
                return place
            there["root"] = str(Path(str(there.get("root"))).resolve())
            if {k: there.get(k) for k in what} == what:
                return place
        raise AssertionError

    def write(self, out: Path, *, lists: int = 5, top: int = 10) -> Path:
        """Write ``evaluation.json`` and ``ranked.html`` into ``out``; returns the page.

        The page shows the ``lists`` best, median and worst queries with their ``top`` matches,
        junk removed.
        """
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "evaluation.json", json.dumps(self.summary(), indent=1))
        return viz.ranked_page(
            out / "ranked.html",
            f"{self.dataset.title}: rank-1 {self.metrics.rank1:.1%}, mAP {self.metrics.mAP:.1%}",
            self.rows(lists, top),
            notes=[
                self.model.describe(),
                f"{self.dataset.title}: "
                f"{counted(self.metrics.n_valid_queries, 'query', 'queries')} with a match of "
                f"{self.metrics.n_queries:,}, gallery "
                f"{counted(len(self.dataset.gallery), 'image')}; "
                f"{self.dataset.protocol.text()}. AP rule: {self.metrics.ap_rule}. "
                "Each query of a group shows another person.",
                *(f"Warning: {warning}" for warning in self.warnings),
            ],
            tables=[viz.Table(("figure", "value"), _cells(self.metrics))],
            score=f"{self.model.metric} "
            + ("similarity" if self.model.metric == "cosine" else "distance"),
        )

    def rows(self, lists: int = 5, top: int = 10) -> list[viz.Row]:
        """Ranked lists of the best, median and worst queries by average precision."""
        query, gallery = self.dataset.require_test()
        per_query = self.metrics.per_query
        valid = np.flatnonzero(per_query.valid)
        order = valid[np.argsort(-per_query.ap[valid], kind="stable")]
        middle = order[max(0, len(order) // 2 - lists) :]
        chosen = [("Best queries", _of_different_people(order, query, lists))]
        if len(order) >= 3 * lists:
            chosen.append(("Median queries", _of_different_people(middle, query, lists)))
            chosen.append(("Worst queries", _of_different_people(order[::-1], query, lists)))
        rows = []
        for group, picked in chosen:
            camids = _camids(gallery)
            if self.dataset.protocol.same_camera == "keep":  # then no camera is anybody's own
                camids = np.full_like(camids, -1)
            ranking = top_k(
                self.query_features[picked],
                self.gallery_features,
                min(top, len(gallery)),
                metric=self.model.metric,
                query_pids=_pids(query)[picked],
                query_camids=_camids(query)[picked],
                gallery_pids=_pids(gallery),
                gallery_camids=camids,
            )
            for i, indices, scores in zip(picked, ranking.indices, ranking.scores, strict=True):
                hits = [
                    viz.Hit(
                        gallery[j].path,
                        float(s),
                        gallery[j].pid == query[i].pid,
                        f"{gallery[j].path.name}, camera {gallery[j].camid}",
                    )
                    for j, s in zip(indices, scores, strict=True)
                    if j >= 0
                ]
                caption = f"{query[i].path.name}, AP {per_query.ap[i]:.3f}"
                rows.append(viz.Row(query[i].path, hits, caption, group))
        return rows


def evaluate(
    model: Embedder,
    dataset: Dataset,
    *,
    ap: str | None = None,
    rerank: bool | RerankSettings = False,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Embed query and gallery of ``dataset`` and judge the ranking by its protocol.

    Args:
        model: what turns pictures into vectors.
        dataset: a data set with query and gallery.
        ap: the rule that is called mAP ("rank-precision" or "trapezoid"); default the model's.
        rerank: also measure after k-reciprocal re-ranking, by these settings; True is k1 20,
            k2 6 and lambda 0.3, as in its paper.
        seed: of the draws of protocols that draw gallery images.
        progress: show progress bars.

    Raises:
        DataError: no query or no gallery, or pictures cannot be decoded.
    """
    query, gallery = dataset.require_test()
    protocol = dataset.protocol
    start = time.monotonic()
    extra = dataset.multi_query if protocol.multi_query else ()
    features = model.files([s.path for s in (*query, *gallery, *extra)], progress=progress)
    embedded = time.monotonic()
    q, g, m = np.split(features, [len(query), len(query) + len(gallery)])
    settings: dict[str, Any] = {
        "metric": model.metric,
        "ap": ap or model.ap,
        "same_camera": protocol.same_camera,
        "gallery_shots": protocol.gallery_shots,
        "shots_per": protocol.shots_per,
        "repeats": protocol.repeats,
        "seed": seed,
    }
    if protocol.by_track:
        settings["gallery_tracks"] = np.array([s.track for s in gallery])
    if protocol.multi_query:
        settings |= {
            "multi_query": protocol.multi_query,
            "multi_query_features": m,
            "multi_query_pids": _pids(extra),
            "multi_query_camids": _camids(extra),
        }
    data = (q, _pids(query), _camids(query), g, _pids(gallery), _camids(gallery))
    metrics = measure(*data, **settings)
    judged = time.monotonic()
    how = RerankSettings() if rerank is True else rerank or None
    reranked = measure(*data, **settings, rerank=how) if how else None
    seconds = {"embed": embedded - start, "rank": judged - embedded}
    if how:
        seconds["rerank"] = time.monotonic() - judged
    return Evaluation(model, dataset, metrics, q, g, reranked, seconds, seed, how)


def _of_different_people(
    order: npt.NDArray[np.intp], query: Sequence[Sample], count: int
) -> npt.NDArray[np.intp]:
    """The first ``count`` queries of ``order`` that show different people."""
    _, first = np.unique([query[i].pid for i in order], return_index=True)
    return order[np.sort(first)[:count]]


def _numbers(metrics: Metrics) -> dict[str, Any]:
    return {
        **metrics.to_json(),
        "ap": metrics.ap_rule,
        "mAP_rank_precision": metrics.mAP_rank_precision,
        "mAP_trapezoid": metrics.mAP_trapezoid,
        "n_gallery": metrics.n_gallery,
        "n_distractors": metrics.n_distractors,
        "n_junk_images": metrics.n_junk_images,
        "n_junk_pairs": metrics.n_junk_pairs,
    }


def _cells(metrics: Metrics) -> list[tuple[str, str]]:
    rows = [(f"rank-{k}", f"{metrics.rank(k):.2%}") for k in (1, 5, 10, 20)]
    rows.append(("mAP (rank-precision)", f"{metrics.mAP_rank_precision:.2%}"))
    rows.append(("mAP (trapezoid)", f"{metrics.mAP_trapezoid:.2%}"))
    rows.append(("mINP", f"{metrics.mINP:.2%}"))
    rows.append(("queries", f"{metrics.n_queries:,}, of which {metrics.n_valid_queries:,} count"))
    rows.append(
        ("gallery", f"{metrics.n_gallery:,}, {counted(metrics.n_distractors, 'distractor')}")
    )
    rows.append(("junk images dropped", f"{metrics.n_junk_images:,}"))
    rows.append(("same-camera pairs dropped", f"{metrics.n_junk_pairs:,}"))
    return rows


def figures(evaluation: Evaluation) -> Mapping[str, float]:
    """The few numbers that a training log keeps."""
    m = evaluation.metrics
    return {"rank1": m.rank1, "mAP": m.mAP, "mINP": m.mINP}


def _pids(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    return np.array([s.pid for s in samples], np.int64)


def _camids(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    return np.array([s.camid for s in samples], np.int64)
