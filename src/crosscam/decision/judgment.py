"""What a calibration says of the results of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crosscam.decision.calibration import Calibration, Threshold

__all__ = ["Judgment", "judge"]

Decision = Literal["match", "possible", "unlikely"]

_MOST_PEOPLE = 100_000  # beyond that no threshold was calibrated

_POOLED = (
    "the calibration is of single pictures: of searches with several taken together, more "
    "strangers' pass than it says. Search with single pictures, or demand a smaller rate."
)


@dataclass(frozen=True)
class Judgment:
    """Probabilities and decisions of the results of a search, in their order.

    ``known`` is whether any of them is above the line of a search, None where the calibration
    knows only pairs.  ``line`` is that line (of pairs, if there is no other).
    """

    probabilities: tuple[float, ...]
    decisions: tuple[Decision, ...]
    known: bool | None
    line: Threshold
    people: int  # that the gallery was taken to hold
    data: str  # calibrated on
    notes: tuple[str, ...] = ()  # remarks a reader should see

    def text(self) -> str:
        """The decision in a sentence; empty where there is none."""
        if self.known is None:
            return ""
        said = "probably seen here: above" if self.known else "UNKNOWN: nobody is above"
        rate = (
            f"{said} {self.line.score:.3f}, which {self.line.far:.1%} of strangers' searches pass"
        )
        if not self.line.extrapolated:
            return rate
        return (
            f"{rate} (extrapolated from fewer people than this rate needs, so that more may pass: "
            "calibrate on more)"
        )

    def to_json(self) -> dict[str, Any]:
        """What is said of the whole search."""
        return {
            "known": self.known,
            "far": self.line.far,
            "threshold": round(self.line.score, 4),
            "interval": [round(self.line.low, 4), round(self.line.high, 4)],
            "extrapolated": self.line.extrapolated,
            "people": self.people,
            "calibrated_on": self.data,
        }


def judge(
    calibration: Calibration,
    scores: Sequence[float],
    sightings: int,
    *,
    far: float = 0.01,
    present: float = 0.5,
    pictures: int = 1,
) -> Judgment:
    """Judges the results of a search in a gallery of so many sightings.

    The gallery is taken to hold ``sightings`` / sightings-per-person people, as when
    calibrating.  A match is above the threshold of a search among them, a possible one above that
    of a pair.  A probability is of the pair, with the chance of ``present`` / people that a
    stranger's sighting drawn blindly would be the right person's.  ``pictures`` were taken together
    to ask with; a note says that the calibration is of single ones.
    """
    people = min(max(round(sightings / calibration.sightings_per_person), 1), _MOST_PEOPLE)
    maybe = calibration.threshold(far)
    # Pairs alone say nothing of the best of a whole gallery: then nothing is decided.
    sure = calibration.threshold(far, people=people) if calibration.search_thresholds else None
    prior = min(max(present / people, 1e-9), 0.5)
    decisions: list[Decision] = [
        "match"
        if sure is not None and score > sure.score
        else "possible"
        if score > maybe.score
        else "unlikely"
        for score in scores
    ]
    return Judgment(
        tuple(float(calibration.probability(score, prior)) for score in scores),
        tuple(decisions),
        None if sure is None else "match" in decisions,
        sure or maybe,
        people,
        calibration.data,
        (_POOLED,) if pictures > 1 else (),
    )
