"""Calibrating an encoder on people whose identity is known, and checking the promise on others.

The people are split into two halves.  What is learned on one half is held against the other, and
the other way around: rates and probabilities are measured on people they were not learned from.
The calibration that is kept is then learned from all of them.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam import page
from crosscam.decision import Calibration, Trials, collect, fit
from crosscam.decision.calibration import RATES
from crosscam.decision.trials import BINS, EDGES, bin_of, of_pairs
from crosscam.errors import DataError, FeatureError, MissingExtraError
from crosscam.retrieval import open_set
from crosscam.table import read_table
from crosscam.types import Dataset, Sample
from crosscam.wording import counted

__all__ = ["Calibrated", "calibrate", "calibrate_pairs", "read_pairs"]

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[Path]], Vectors]

_FEWEST = 8  # people in a half; with fewer, rates of a percent mean nothing
_CELLS = 10  # of a reliability diagram


@dataclass(frozen=True)
class Calibrated:
    """A calibration and how it fared on people it was not learned from."""

    calibration: Calibration
    curves: Mapping[str, Any]  # what the report draws

    def text(self, far: float = 0.01) -> str:
        """The figures as lines for a terminal."""
        it = self.calibration
        measured = it.measured or {}
        threshold = it.threshold(far)
        lines = [
            f"calibrated on   {it.data}: {_counts(it)}",
            f"pair threshold  {threshold.score:.4f} at a false-accept rate of {far:.1%} "
            f"(95 %: {threshold.low:.4f} to {threshold.high:.4f})",
        ]
        for kind, rows in measured.items():
            if kind in ("pairs", "searches"):
                lines += [
                    f"{kind:<9} promised {r['far']:.1%}, on other people {r['achieved']:.2%} "
                    f"(95 %: {r['low']:.2%} to {r['high']:.2%}), accepts {r['accepted']:.1%} of "
                    "the right ones" + (", extrapolated" if r["extrapolated"] else "")
                    for r in rows
                ]
        if "pair_error" in measured:
            lines.append(
                f"probabilities are off by {measured['pair_error']:.2%} on average (pairs)"
                + (
                    f", {measured['search_error']:.2%} (best candidate of a search, half of the "
                    "people unknown)"
                    if "search_error" in measured
                    else ""
                )
            )
        lines += [f"warning         {warning}" for warning in self.warnings]
        return "\n".join(lines)

    @property
    def warnings(self) -> list[str]:
        """A sentence for pairs and one for searches whose promised rates were clearly missed.

        That is where twice the promise passed on other people, and chance does not explain it:
        the whole interval lies above the promise.  Of several rates the one missed by most.
        """
        found = []
        for kind in ("pairs", "searches"):
            rows = (self.calibration.measured or {}).get(kind, ())
            missed = [r for r in rows if r["low"] > r["far"] and r["achieved"] > 2 * r["far"]]
            if missed:
                worst = max(missed, key=lambda r: float(r["achieved"] / r["far"]))
                what = {"pairs": "pairs of two people", "searches": "searches among strangers"}
                found.append(
                    f"the check on other people missed the promise: of {what[kind]}, "
                    f"{worst['achieved']:.1%} passed (95 %: {worst['low']:.1%} to "
                    f"{worst['high']:.1%}) where {worst['far']:.1%} was promised. Do not rely on "
                    f"the promised rates of {kind}; calibrate on more people."
                )
        return found

    def report(self, path: Path) -> Path:
        """Writes the figures as a page with pictures (extra ``crosscam[plots]``)."""
        return _report(path, self)


def calibrate(embed: Embed, dataset: Dataset, *, model: str, seed: int = 0) -> Calibrated:
    """Calibrates on query and gallery of ``dataset``.

    Args:
        embed: picture files to unit vectors [N, D].
        dataset: sightings of people the encoder was not trained on.
        model: hash of the encoder.
        seed: of the split into halves and of the bootstrap.

    Raises:
        DataError: no test pictures, or too few people.
    """
    query, gallery = dataset.require_test()
    pids = np.unique([s.pid for s in query])
    if len(pids) < 2 * _FEWEST:
        raise DataError(
            f"{dataset.title} has {counted(len(pids), 'query person', 'query people')}, and a "
            f"calibration that can be checked needs {2 * _FEWEST} or more."
        )
    vectors = embed([s.path for s in (*query, *gallery)])
    q, g = vectors[: len(query)], vectors[len(query) :]
    everything = _Sightings.of(q, query), _Sightings.of(g, gallery)
    random = np.random.default_rng([seed, len(pids)])
    halves = np.array_split(random.permutation(pids), 2)
    fold_rows: list[dict[str, Any]] = []
    for learn, check in (halves, halves[::-1]):
        some = fit(_trials(everything, learn), model=model, data="half", seed=seed)
        fold_rows.append(_check(some, everything, check, random))
    trials = _trials(everything, None)
    found = fit(trials, model=model, data=dataset.title, seed=seed)
    measured, curves = _together(fold_rows)
    curves["scores"] = _densities(trials)
    return Calibrated(dataclasses.replace(found, measured=measured), curves)


def calibrate_pairs(
    embed: Embed, pairs: Sequence[tuple[Path, Path, bool]], *, model: str, data: str, seed: int = 0
) -> Calibrated:
    """Calibrates on a list of picture pairs and whether each shows one person.

    Half of the pairs check what the other half taught.  Searches cannot be calibrated so.
    """
    paths = sorted({p for a, b, _ in pairs for p in (a, b)})
    row = {path: i for i, path in enumerate(paths)}
    vectors = embed(paths)
    a, b = vectors[[row[p] for p, _, _ in pairs]], vectors[[row[p] for _, p, _ in pairs]]
    scores = np.clip((a * b).sum(1), -1.0, 1.0)
    same = np.array([pair[2] for pair in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    folds = []
    halves = order[::2], order[1::2]
    for learn, check in (halves, halves[::-1]):
        some = fit(of_pairs(scores[learn], same[learn]), model=model, data="half", seed=seed)
        folds.append({"pairs": _pair_rows(some, of_pairs(scores[check], same[check]))})
    trials = of_pairs(scores, same)
    found = fit(trials, model=model, data=data, seed=seed)
    measured, curves = _together(folds)
    curves["scores"] = _densities(trials)
    return Calibrated(dataclasses.replace(found, measured=measured), curves)


def read_pairs(path: Path) -> list[tuple[Path, Path, bool]]:
    """Rows of a CSV with columns ``a``, ``b`` (pictures, relative to the file) and ``same``.

    Raises:
        DataError: no such file, a column is missing, or a value of ``same`` is not 0 or 1.
    """
    table = read_table(path)
    missing = {"a", "b", "same"} - set(table.columns)
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(sorted(missing))}; needed are a, b (pictures) "
            "and same (1 one person, 0 two)."
        )
    pairs = []
    for line, row in table:
        if row["same"] not in ("0", "1"):
            raise DataError(f"{path} line {line}: same must be 0 or 1, got {row['same']!r}.")
        pairs.append((path.parent / row["a"], path.parent / row["b"], row["same"] == "1"))
    return pairs


# --- halves ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sightings:
    vectors: Vectors
    pids: npt.NDArray[np.int64]
    camids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, vectors: Vectors, samples: Sequence[Sample]) -> _Sightings:
        pids = np.array([s.pid for s in samples], np.int64)
        return cls(vectors, pids, np.array([s.camid for s in samples], np.int64))

    def only(self, chosen: npt.NDArray[np.bool_]) -> tuple[Any, Any, Any]:
        return self.vectors[chosen], self.pids[chosen], self.camids[chosen]


def _trials(
    everything: tuple[_Sightings, _Sightings], people: npt.NDArray[np.int64] | None
) -> Trials:
    """Trials among ``people``; every one of them where None."""
    parts: list[Any] = []
    for sightings in everything:
        chosen = np.ones(len(sightings.pids), bool)
        if people is not None:
            chosen = np.isin(sightings.pids, people)
        parts += sightings.only(chosen)
    return collect(*parts)


def _check(
    calibration: Calibration,
    everything: tuple[_Sightings, _Sightings],
    people: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> dict[str, Any]:
    trials = _trials(everything, people)
    strangers = int((~np.isnan(trials.best_other)).sum(1).min())
    best = np.nanmax(trials.best_other, 1)
    own = trials.best_same
    searches = []
    for far in RATES:
        threshold = calibration.threshold(far, people=strangers)
        above = threshold.score
        alarms = np.bincount(trials.query_person, best > above, trials.people)
        counts = np.bincount(trials.query_person, minlength=trials.people).astype(float)
        accepted = (own > above) & (own > best)
        known = ~np.isnan(own)
        searches.append(
            {
                "far": far,
                "achieved": alarms.sum() / counts.sum(),
                "interval": _interval(alarms.astype(float), counts),
                "accepted": float(accepted[known].mean()),
                "extrapolated": threshold.extrapolated,
                "people": strangers,
            }
        )
    # Half of the people leave the gallery and play the unknown.
    query, gallery = everything
    gone = random.permutation(people)[: len(people) // 2]
    there = np.isin(gallery.pids, np.setdiff1d(people, gone))
    asked = np.isin(query.pids, people)
    q, qp, qc = query.only(asked)
    g, gp, gc = gallery.only(there)
    try:
        rates = open_set(q, qp, qc, g, gp, gc, far=RATES)
        directory = {"far": rates.far.tolist(), "dir": rates.dir.tolist()}
    except FeatureError:  # every remaining query lost its match
        directory = {}
    said, right = _best_candidates(calibration, (q, qp, qc), (g, gp, gc))
    return {
        "pairs": _pair_rows(calibration, trials),
        "searches": searches,
        "dir": directory,
        "candidates": (said, right),
    }


def _pair_rows(calibration: Calibration, trials: Trials) -> dict[str, Any]:
    rows = []
    total = trials.other.sum(1).astype(float)
    for far in RATES:
        line = calibration.threshold(far)
        threshold = line.score
        first = int(np.searchsorted(EDGES, threshold - 1e-12))
        passed = trials.other[:, first:].sum(1).astype(float)
        rows.append(
            {
                "far": far,
                "achieved": passed.sum() / total.sum(),
                "interval": _interval(passed, total),
                "accepted": float((trials.same > threshold).mean()),
                "extrapolated": line.extrapolated,
            }
        )
    same = np.bincount(bin_of(trials.same), minlength=BINS)
    return {"rows": rows, "same": same, "other": trials.other.sum(0), "pair": calibration.pair}


def _best_candidates(calibration: Calibration, query: Any, gallery: Any) -> tuple[Floats, Any]:
    """What is said of the best candidate of every search, and whether it is the right one."""
    (q, qp, qc), (g, gp, gc) = query, gallery
    order = np.argsort(gp, kind="stable")
    g, gp, gc = g[order], gp[order], gc[order]
    persons, starts = np.unique(gp, return_index=True)
    said, right = [], []
    for vector, pid, camid in zip(q, qp, qc, strict=True):
        scores = np.where((gp == pid) & (gc == camid), -1.0, g @ vector)
        best = np.maximum.reduceat(scores, starts)
        chances, _ = calibration.identify(best, people=len(persons))
        said.append(chances.max())
        right.append(persons[chances.argmax()] == pid)
    return np.array(said), np.array(right)


def _together(folds: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both halves measured, averaged, and the curves to draw."""
    measured: dict[str, Any] = {"pairs": _average([f["pairs"]["rows"] for f in folds])}
    said, right, weight = [], [], []
    for fold in folds:
        same, other = fold["pairs"]["same"], fold["pairs"]["other"]
        middles = (EDGES[:-1] + EDGES[1:]) / 2
        # Both kinds of pairs weigh the same, so the prior is one half.
        chance = fold["pairs"]["pair"].probability(middles, 0.5)
        for counts, answer in ((same, 1.0), (other, 0.0)):
            said.append(chance)
            right.append(np.full(BINS, answer))
            weight.append(counts / counts.sum())
    cells, error = _reliability(np.concatenate(said), np.concatenate(right), np.concatenate(weight))
    measured["pair_error"] = error
    curves: dict[str, Any] = {"pairs": cells}
    if "searches" in folds[0]:
        measured["searches"] = _average([f["searches"] for f in folds])
        said_best = np.concatenate([f["candidates"][0] for f in folds])
        right_best = np.concatenate([f["candidates"][1] for f in folds]).astype(float)
        curves["searches"], measured["search_error"] = _reliability(
            said_best, right_best, np.ones(len(said_best))
        )
        directories = [f["dir"] for f in folds if f["dir"]]
        if directories:
            measured["dir"] = {
                "far": directories[0]["far"],
                "dir": np.mean([d["dir"] for d in directories], 0).tolist(),
            }
    return measured, curves


def _average(folds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for entries in zip(*folds, strict=True):
        row = {
            key: float(np.mean([e[key] for e in entries]))
            for key in entries[0]
            if key not in ("interval", "people", "extrapolated")
        }
        # Halves of different people are independent: the variances of their mean add.
        spread = np.array([e["interval"] for e in entries]) - row["achieved"]
        own = np.array([[e["achieved"] - row["achieved"]] for e in entries])
        half = np.sqrt(((spread - own) ** 2).sum(0)) / len(entries)
        row["low"] = max(row["achieved"] - half[0], 0.0)
        row["high"] = min(row["achieved"] + half[1], 1.0)
        row["extrapolated"] = any(e["extrapolated"] for e in entries)
        if "people" in entries[0]:
            row["people"] = int(entries[0]["people"])
        rows.append(row)
    return rows


def _interval(hits: Floats, counts: Floats, draws: int = 500) -> tuple[float, float]:
    """95 % of the rate sum(hits) / sum(counts), the people searched for being drawn anew."""
    people = len(counts)
    weights = np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), draws)
    rates = (weights @ hits) / np.maximum(weights @ counts, 1e-9)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _reliability(said: Floats, right: Floats, weight: Floats) -> tuple[list[list[float]], float]:
    """(mean said, share right, weight) of every tenth, and their mean distance by weight."""
    cell = np.minimum((said * _CELLS).astype(int), _CELLS - 1)
    rows, error = [], 0.0
    for number in range(_CELLS):
        w = weight[cell == number]
        if not w.sum():
            continue
        mean = float((said[cell == number] * w).sum() / w.sum())
        share = float((right[cell == number] * w).sum() / w.sum())
        rows.append([mean, share, float(w.sum() / weight.sum())])
        error += abs(mean - share) * float(w.sum() / weight.sum())
    return rows, error


def _densities(trials: Trials) -> dict[str, list[float]]:
    """Shares of scores of pairs of one person and of two, in at most 64 bins where scores are.

    ``edges`` are the N + 1 bounds of the N bins.  One score in 2,000 at either end, of each kind,
    is left out, so that a single odd pair does not press all others together.
    """
    counts = {
        "same": np.bincount(bin_of(trials.same), minlength=BINS),
        "other": trials.other.sum(0),
    }
    ends = []
    for count in counts.values():
        below = np.cumsum(count) / count.sum()
        ends.append((int((below > 0.0005).argmax()), int((below >= 0.9995).argmax()) + 1))
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    wide = -(-(last - first) // 64)
    edges = np.minimum(np.arange(first, last + wide, wide), BINS)
    shares = {
        name: (np.add.reduceat(np.append(count[: edges[-1]], 0), edges[:-1]) / count.sum()).tolist()
        for name, count in counts.items()
    }
    return {**shares, "edges": EDGES[edges].tolist()}


# --- the page ---------------------------------------------------------------------------------


def _counts(it: Calibration) -> str:
    people = counted(it.people, "person", "people")
    pairs = counted(it.same_pairs, "pair")
    return f"{people}, {pairs} of one person, {it.other_pairs:,} of two"


def _report(path: Path, found: Calibrated) -> Path:
    it, measured = found.calibration, found.calibration.measured or {}
    figure = _draw(found)
    tables = []
    marked = False
    for kind, title in (("pairs", "Pairs"), ("searches", "Searches")):
        if kind in measured:
            marked |= any(r["extrapolated"] for r in measured[kind])
            size = measured[kind][0].get("people")
            among = f" among {size} people" if size else ""
            tables.append(
                f"<h2>{title}{among}: promised and kept</h2>"
                + page.table(
                    (
                        "promised false-accept rate",
                        "on other people",
                        "95 %",
                        "right ones accepted",
                    ),
                    [
                        (
                            f"{r['far']:.1%}" + (" (extrapolated)" if r["extrapolated"] else ""),
                            f"{r['achieved']:.2%}",
                            f"{r['low']:.2%} to {r['high']:.2%}",
                            f"{r['accepted']:.1%}",
                        )
                        for r in measured[kind]
                    ],
                )
            )
    if marked:
        tables.append(
            "<p class=note>Extrapolated: the threshold rests on fewer trials or strangers than its "
            "rate needs (ten trials above it, at least). Calibrate on more people before relying "
            "on it.</p>"
        )
    if it.cameras:
        tables.append(
            "<h2>Pairs of cameras, at the pair threshold of 1 %</h2>"
            + page.table(
                ("cameras", "false accepts", "right ones accepted", "pairs of two people"),
                [
                    (
                        f"{p.cameras[0]} and {p.cameras[1]}",
                        f"{p.far:.2%}",
                        "" if p.tpr is None else f"{p.tpr:.1%}",
                        f"{p.pairs:,}",
                    )
                    for p in it.cameras
                ],
            )
        )
    notes = [
        *(f"Warning: {warning}" for warning in found.warnings),
        f"{_counts(it)}. Everything below is measured on people that it was not learned from (two "
        "halves, each checked on the other).",
        "Intervals come from drawing anew the people who are searched for; the strangers they are "
        "compared with stay the same, so the intervals are somewhat narrow.",
    ]
    style = (
        "td, th { text-align: right; padding-left: 12px; } svg { max-width: 100%; height: auto; }"
    )
    title = f"Calibration on {it.data}"
    return page.write(path, title, [figure, *tables], notes=notes, style=style)


def _draw(found: Calibrated) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "the report of a calibration draws with matplotlib: pip install 'crosscam[plots]'."
        ) from error
    measured, curves = found.calibration.measured or {}, found.curves
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    scores, reliability, rates = figure.subplots(1, 3)
    edges = np.array(curves["scores"]["edges"])
    middles = (edges[:-1] + edges[1:]) / 2
    for name, color in (("other", "#d73027"), ("same", "#1a9850")):
        label = {"other": "two people", "same": "one person"}[name]
        scores.fill_between(middles, curves["scores"][name], color=color, alpha=0.4, label=label)
    scores.axvline(found.calibration.threshold(0.01).score, color="#333", lw=1, ls="--")
    scores.set(xlabel="cosine similarity", yticks=[], title="scores, and the 1 % threshold")
    scores.legend(frameon=False)
    reliability.plot([0, 1], [0, 1], color="#999", lw=1)
    for name, label in (("pairs", "pairs"), ("searches", "best of a search")):
        if name in curves:
            cells = np.array(curves[name])
            reliability.plot(cells[:, 0], cells[:, 1], "o-", ms=4, label=label)
    reliability.set(xlabel="probability said", ylabel="share that is right", title="reliability")
    reliability.legend(frameon=False)
    for kind in ("pairs", "searches"):
        if kind in measured:
            far = [r["far"] for r in measured[kind]]
            rates.plot(far, [r["achieved"] for r in measured[kind]], "o-", ms=4, label=kind)
    if "dir" in measured:
        rates.plot(measured["dir"]["far"], measured["dir"]["dir"], "s-", ms=4, label="DIR at FAR")
    rates.plot(RATES, RATES, color="#999", lw=1)
    rates.set(xscale="log", xlabel="false-accept rate promised", title="kept rates, and DIR")
    rates.set_ylim(0, 1)
    rates.legend(frameon=False)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()[out.getvalue().index("<svg") :]
