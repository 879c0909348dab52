"""What the scores of one encoder mean, learned from sightings of known people.

Three answers:

- ``probability``: P(two sightings show one person), from the likelihood ratio of their score.
- ``identify``: P(a person of the gallery is the one searched for), for every candidate, and
  P(unknown).  With LR_j the likelihood ratio of person j's best score, n people in the gallery
  and a share ``present`` of searches whose person is there, Bayes' rule for "exactly one of them
  or nobody" gives

      P(j) = w LR_j / ((1 - present) + w sum_i LR_i),     w = present / n.

- ``threshold``: the score that only a share ``far`` of false comparisons exceeds, with a 95 %
  interval.  Per pair; or per search of a gallery of n people, where a false alarm is *any* of
  the n strangers above the threshold.  A threshold is the upper edge of a bin 1/2048 wide, so it
  never promises less than was asked.

Intervals are bootstrap percentiles over query people (all comparisons of a person are drawn or
left out together, because they are not independent; Bolle, Ratha, Pankanti: "Error analysis of
pattern recognition systems: the subsets bootstrap", CVIU 2004).  The people they are compared
with stay the same in every draw, so an interval says nothing of how other strangers would score,
and is somewhat narrow.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.decision.likelihood import Likelihood, fit_likelihood
from crosscam.decision.trials import BINS, EDGES, Trials, bin_of
from crosscam.errors import CheckpointError, InputError
from crosscam.files import write_atomically
from crosscam.wording import counted

__all__ = ["Calibration", "CameraPair", "Drift", "Threshold", "fit", "search_alarms"]

Floats = npt.NDArray[np.float64]

FILE = "calibration.json"
"""Its name in the folder of the encoder it belongs to."""

FORMAT = 1
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_SIZES = (1, 10, 100, 1000, 10_000, 100_000)
_DRAWS = 500
_QUANTILES = np.concatenate([np.linspace(0.0, 0.99, 100), [0.995, 0.999, 0.9999, 1.0]])
_MIDDLES = (EDGES[:-1] + EDGES[1:]) / 2


@dataclass(frozen=True)
class Threshold:
    """Accept scores above ``score``; ``low`` and ``high`` bound it at 95 %.

    ``extrapolated`` where it rests on fewer strangers than the rate or the gallery needs.
    """

    far: float
    score: float
    low: float
    high: float
    extrapolated: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.far < 1 and -1 <= self.score <= 1 and -1 <= self.low <= self.high <= 1):
            raise InputError(
                f"a threshold has a rate between 0 and 1 and scores in [-1, 1], got {self}."
            )


@dataclass(frozen=True)
class CameraPair:
    """How two cameras stand out, at the pair threshold of a false-accept rate of 1 %."""

    cameras: tuple[int, int]
    far: float  # share of pairs of two people above it
    tpr: float | None  # share of pairs of one person above it; None where there are none
    pairs: int  # pairs of two people

    def __post_init__(self) -> None:
        if not (0 <= self.far <= 1 and 0 <= (self.tpr or 0) <= 1 and self.pairs > 0):
            raise InputError(f"rates of two cameras are in [0, 1] and of some pairs, got {self}.")


@dataclass(frozen=True)
class Drift:
    """Whether scores between strangers still are what they were when calibrating."""

    far: float  # the rate the threshold promises
    now: float  # the share of live pairs above it
    pairs: int
    warning: str  # empty if nothing is wrong


@dataclass(frozen=True)
class Calibration:
    """See the module.  ``model`` is the hash of the encoder whose scores these are."""

    model: str
    data: str
    people: int  # people that were compared
    same_pairs: int
    other_pairs: int
    pair: Likelihood
    person: Likelihood | None  # of a person's best score; None if calibrated on pairs alone
    pair_thresholds: tuple[Threshold, ...]
    search_thresholds: tuple[tuple[int, tuple[Threshold, ...]], ...]  # by people in the gallery
    quantiles: tuple[float, ...]  # of scores of two people, at fixed places
    sightings_per_person: float = 1.0  # in the gallery that was searched
    cameras: tuple[CameraPair, ...] = ()
    measured: dict[str, Any] | None = None  # on people the figures were not learned from

    def __post_init__(self) -> None:
        for name in ("people", "same_pairs", "other_pairs"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} must be 1 or more, got {getattr(self, name)!r}.")
        if not 0 < self.sightings_per_person < math.inf:
            raise InputError(
                f"sightings_per_person must be above 0, got {self.sightings_per_person!r}."
            )
        sizes = [size for size, _ in self.search_thresholds]
        if sizes != sorted({1, *sizes}) and sizes:
            raise InputError(f"search_thresholds must rise from a gallery of 1, got {sizes}.")
        for found in (self.pair_thresholds, *(entries for _, entries in self.search_thresholds)):
            if tuple(t.far for t in found) != RATES:
                raise InputError(f"thresholds must be of the rates {RATES}, got {found}.")
        if not self.quantiles or not all(
            -1 <= a <= b <= 1 for a, b in zip(self.quantiles, self.quantiles[1:], strict=False)
        ):
            raise InputError("quantiles must rise and lie in [-1, 1].")

    def probability(self, scores: npt.ArrayLike, prior: float = 0.5) -> Floats:
        """P(one person) of pairs with these scores, any shape.

        ``prior`` is the share of pairs that show one person before anybody looks, in (0, 1).

        Raises:
            InputError: a score that is no cosine similarity, or another prior.
        """
        return self.pair.probability(_cosines(scores), _share(prior, "prior"))

    def identify(
        self, scores: npt.ArrayLike, people: int, present: float = 0.5
    ) -> tuple[Floats, float]:
        """P of every candidate person [J], from their best scores [J], and P(unknown).

        Args:
            scores: best score of each candidate; people left out count as impossible.
            people: people in the gallery, at least J.
            present: share of searches whose person is in the gallery, in (0, 1).

        Raises:
            InputError: a score that is no cosine similarity, fewer people than candidates, or
                another share.
        """
        best = np.atleast_1d(_cosines(scores))
        present = _share(present, "present")
        if best.ndim > 1:
            raise InputError(f"one score of each candidate is needed, got shape {best.shape}.")
        if not people >= max(len(best), 1):
            candidates = counted(len(best), "candidate does", "candidates do")
            crowd = counted(people, "person", "people")
            raise InputError(f"{candidates} not fit a gallery of {crowd}.")
        ratios = np.exp(np.minimum((self.person or self.pair).log_ratio(best), 600.0))
        weights = present / people * ratios
        total = (1 - present) + weights.sum()
        return weights / total, float((1 - present) / total)

    def threshold(self, far: float = 0.01, people: int | None = None) -> Threshold:
        """The threshold at a false-accept rate, per pair, or per search among ``people``.

        Between the calibrated rates and gallery sizes it is interpolated along their logarithms.
        """
        if not RATES[0] <= far <= RATES[-1]:
            raise InputError(
                f"far must be in [{RATES[0]}, {RATES[-1]}], got {far}: thresholds of other rates "
                "were not calibrated."
            )
        if people is None:
            return _at(self.pair_thresholds, far)
        if not self.search_thresholds:
            raise InputError(
                "this calibration was made from a list of pairs and knows nothing of searches. "
                "Calibrate on a data set, or use a threshold per pair."
            )
        sizes = [size for size, _ in self.search_thresholds]
        if not 1 <= people <= sizes[-1]:
            raise InputError(
                f"people must be 1 to {sizes[-1]:,}, got {people}: search a part of the gallery "
                "(a day, a site)."
            )
        upper = next(i for i, size in enumerate(sizes) if size >= people)
        above = _at(self.search_thresholds[upper][1], far)
        if sizes[upper] == people:
            return above
        below = _at(self.search_thresholds[upper - 1][1], far)
        share = math.log(people / sizes[upper - 1]) / math.log(sizes[upper] / sizes[upper - 1])
        return _between(below, above, share, far)

    def drift(self, scores: npt.ArrayLike, far: float = 0.01) -> Drift:
        """Compares live scores of random pairs of sightings, which show strangers, with then.

        Two random sightings of a gallery of many people hardly ever show one person.  It warns
        where the share above the pair threshold is beyond twice what was promised and more than
        chance explains (a binomial at 99.9 %).

        Raises:
            InputError: fewer than 100 scores, or one that is no cosine similarity: NaN would be
                above no threshold, and broken vectors would look like strangers.
        """
        live = _cosines(scores).ravel()
        if len(live) < 100:
            raise InputError(f"drift needs 100 or more scores, got {len(live)}.")
        threshold = self.threshold(far).score
        now, n = float((live > threshold).mean()), len(live)
        beyond = far + 3.1 * math.sqrt(far * (1 - far) / n)
        warning = ""
        if now > max(2 * far, beyond):
            warning = (
                f"strangers look more alike here than where the model was calibrated: the "
                f"threshold that promised a false-accept rate of {far:.2%} lets {now:.2%} pass. "
                "Calibrate on pictures of these cameras."
            )
        elif float(np.median(live)) < self.quantiles[0]:
            warning = (
                "scores are below everything seen when calibrating: the pictures or their "
                "preprocessing differ. Run crosscam doctor, and calibrate anew."
            )
        return Drift(far, now, n, warning)

    def save(self, path: Path) -> None:
        """Writes JSON; a crash leaves the old file."""
        write_atomically(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1))

    @classmethod
    def beside(cls, model: Path, hash: str) -> Calibration | None:
        """The calibration in the folder of an encoder, None if it has none.

        Raises:
            CheckpointError: as ``load``.
        """
        path = model / FILE
        return cls.load(path, hash) if path.is_file() else None

    @classmethod
    def load(cls, path: Path, model: str | None = None) -> Calibration:
        """Reads what ``save`` wrote.

        Args:
            path: the file.
            model: hash of the encoder in use; another one than calibrated is refused.

        Raises:
            CheckpointError: no such file, not a calibration, of a newer format, or of another
                encoder.
        """
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree.pop("format") != FORMAT:
                raise CheckpointError(
                    f"{path} has a format this version of crosscam does not know. Calibrate anew."
                )
            tree["pair"] = Likelihood(**tree["pair"])
            tree["person"] = tree["person"] and Likelihood(**tree["person"])
            tree["pair_thresholds"] = _thresholds(tree["pair_thresholds"])
            tree["search_thresholds"] = tuple(
                (int(size), _thresholds(entries)) for size, entries in tree["search_thresholds"]
            )
            tree["quantiles"] = tuple(tree["quantiles"])
            tree["cameras"] = tuple(
                CameraPair(**{**entry, "cameras": tuple(entry["cameras"])})
                for entry in tree["cameras"]
            )
            found = cls(**tree)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"there is no calibration at {path}. Make one with: crosscam calibrate MODEL "
                "--data NAME --root FOLDER."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} is not a calibration ({type(error).__name__}: {error}). Calibrate anew."
            ) from error
        if model is not None and found.model != model:
            raise CheckpointError(
                f"{path} was made for the encoder {found.model[:12]}, and this one is "
                f"{model[:12]}: their scores mean different things. Calibrate this encoder."
            )
        return found


def fit(trials: Trials, *, model: str, data: str, seed: int = 0) -> Calibration:
    """Learns what scores mean.

    Args:
        trials: scored comparisons (``collect`` or ``of_pairs``).
        model: hash of the encoder.
        data: what the sightings are, for people who read the file.
        seed: of the bootstrap.
    """
    other = trials.other.sum(0)
    pair = fit_likelihood(
        trials.same.astype(np.float64),
        np.ones(len(trials.same)),
        _MIDDLES[other > 0],
        other[other > 0].astype(np.float64),
    )
    person, search = None, []
    weights = _draws(trials.people, seed)
    if trials.best_other.size:
        own = trials.best_same[~np.isnan(trials.best_same)].astype(np.float64)
        strangers = np.bincount(
            bin_of(trials.best_other[~np.isnan(trials.best_other)]), minlength=BINS
        )
        person = fit_likelihood(
            own,
            np.ones(len(own)),
            _MIDDLES[strangers > 0],
            strangers[strangers > 0].astype(np.float64),
        )
        least = int((~np.isnan(trials.best_other)).sum(1).min())
        for size in sorted({*_SIZES, least}):
            search.append((size, _search_thresholds(trials, size, least, weights)))
    seen = np.cumsum(other) / other.sum()
    quantiles = EDGES[
        np.searchsorted(seen, np.maximum(_QUANTILES, 1e-12), "left").clip(0, BINS - 1)
    ]
    thresholds = _pair_thresholds(trials, weights)
    return Calibration(
        model,
        data,
        trials.people,
        len(trials.same),
        int(other.sum()),
        pair,
        person,
        thresholds,
        tuple(search),
        tuple(float(q) for q in quantiles),
        _sightings_per_person(trials),
        _camera_pairs(trials, _at(thresholds, 0.01).score),
    )


def search_alarms(best_other: npt.NDArray[np.float32], people: int) -> Floats:
    """P(any of ``people`` strangers scores at or above the lower edge of each bin), [Q, BINS].

    ``best_other`` [Q, M] holds every query's best score with each stranger, NaN where there is
    none.  ``people`` of a query's m strangers are drawn without replacement: with k of them at or
    above, P = 1 - C(m - k, n) / C(m, n).
    """
    out = np.empty((len(best_other), BINS))
    for row, scores in enumerate(best_other):
        valid = scores[~np.isnan(scores)]
        m = len(valid)
        counts = np.bincount(bin_of(valid), minlength=BINS)
        k = np.cumsum(counts[::-1])[::-1]  # at or above the lower edge of the bin
        # log C(m - k, n) - log C(m, n), looked up because k is one of 0..m
        i = np.arange(m)
        left = np.where(m - i - people > 0, m - i - people, 0) / (m - i)
        with np.errstate(divide="ignore"):
            logs = np.concatenate([[0.0], np.cumsum(np.log(left))])
        out[row] = 1.0 - np.exp(logs)[k]
    return out


def _draws(people: int, seed: int) -> npt.NDArray[np.float64]:
    """How often every person is drawn in each bootstrap sample, [_DRAWS + 1, people].

    The first row is the sample itself.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(people, np.full(people, 1 / people), size=_DRAWS)
    return np.vstack([np.ones(people), drawn])


def _pair_thresholds(trials: Trials, weights: Floats) -> tuple[Threshold, ...]:
    """At every rate the lowest bin edge that at most that share of strangers' pairs exceeds."""
    above = weights @ np.cumsum(trials.other[:, ::-1], 1)[:, ::-1]  # [draws, BINS] from a bin on
    return _lowest(above / above[:, :1], int(trials.other.sum()))


def _search_thresholds(
    trials: Trials, people: int, strangers: int, weights: Floats
) -> tuple[Threshold, ...]:
    """Thresholds of a search among ``people``; every query has ``strangers`` or more to draw.

    Beyond that, strangers of all queries are put together: 1 - (1 - p)^n with p the share of them
    at or above.  Queries differ, and the mean over them of 1 - (1 - p_q)^n is no larger (Jensen),
    so such a threshold is on the safe side.
    """
    counts = np.bincount(trials.query_person, minlength=trials.people)
    hits = np.zeros((trials.people, BINS))
    if people <= strangers:
        np.add.at(hits, trials.query_person, search_alarms(trials.best_other, people))
        rates = (weights @ hits) / (weights @ counts)[:, None]
    else:
        valid = ~np.isnan(trials.best_other)
        rows = np.broadcast_to(trials.query_person[:, None], valid.shape)[valid]
        np.add.at(hits, (rows, bin_of(trials.best_other[valid])), 1.0)
        above = weights @ np.cumsum(hits[:, ::-1], 1)[:, ::-1]
        rates = -np.expm1(people * np.log1p(-np.minimum(above / above[:, :1], 1 - 1e-15)))
    return _lowest(rates, len(trials.best_other), beyond=people > strangers)


def _lowest(rates: Floats, trials: int, beyond: bool = False) -> tuple[Threshold, ...]:
    """Thresholds from ``rates`` [draws, BINS] at or above each bin's lower edge (falling)."""
    found = []
    for far in RATES:
        # Scores of bin i are at most EDGES[i + 1]; above that edge lies what bins i + 1.. hold.
        first = (rates <= far + 1e-12).argmax(1)
        first = np.where((rates <= far + 1e-12).any(1), first, BINS)
        scores = EDGES[first]
        low, high = np.percentile(scores[1:], [2.5, 97.5])
        found.append(
            Threshold(far, float(scores[0]), float(low), float(high), beyond or far * trials < 10)
        )
    return tuple(found)


def _sightings_per_person(trials: Trials) -> float:
    comparisons = (~np.isnan(trials.best_other)).sum()
    return float(trials.other.sum() / comparisons) if comparisons else 1.0


def _camera_pairs(trials: Trials, threshold: float) -> tuple[CameraPair, ...]:
    first = int(np.searchsorted(EDGES, threshold, "left"))
    found = []
    for cameras, (same, other) in sorted(trials.cameras.items()):
        if other.sum():
            tpr = float(same[first:].sum() / same.sum()) if same.sum() else None
            far = float(other[first:].sum() / other.sum())
            found.append(CameraPair(cameras, far, tpr, int(other.sum())))
    return tuple(found)


def _at(thresholds: Sequence[Threshold], far: float) -> Threshold:
    for below, above in itertools.pairwise(thresholds):
        if below.far <= far <= above.far:
            share = math.log(far / below.far) / math.log(above.far / below.far)
            return _between(below, above, share, far)
    raise InputError(f"no threshold for a rate of {far}.")  # the caller has checked the range


def _between(below: Threshold, above: Threshold, share: float, far: float) -> Threshold:
    if share in (0.0, 1.0):
        chosen = below if share == 0 else above
        return replace(chosen, far=far)

    def mix(a: float, b: float) -> float:
        return (1 - share) * a + share * b

    return Threshold(
        far,
        mix(below.score, above.score),
        mix(below.low, above.low),
        mix(below.high, above.high),
        above.extrapolated or below.extrapolated,
    )


def _thresholds(entries: Sequence[dict[str, Any]]) -> tuple[Threshold, ...]:
    return tuple(Threshold(**entry) for entry in entries)


def _cosines(scores: npt.ArrayLike) -> Floats:
    """Scores as float64, or an ``InputError`` where one is no cosine similarity."""
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"scores must be numbers ({error}).") from error
    wrong = values[~(np.abs(values) <= 1 + 1e-3)]  # NaN is one of them
    if wrong.size:
        raise InputError(
            f"scores must be cosine similarities in [-1, 1], got {wrong.flat[0]:.4g} "
            f"({wrong.size:,} of {values.size:,} are none): bring vectors to unit length first."
        )
    return values


def _share(value: float, name: str) -> float:
    if not 0.0 < value < 1.0:
        raise InputError(f"{name} must be between 0 and 1, got {value}.")
    return value
