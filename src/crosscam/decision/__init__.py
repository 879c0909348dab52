"""From scores to decisions: how likely two sightings show one person, and when nobody fits.

A score is the cosine similarity of two unit vectors.  ``collect`` scores sightings of known
people, ``fit`` learns from them what scores mean, a ``Calibration`` answers.
"""

from crosscam.decision.calibration import Calibration, Drift, Threshold, fit
from crosscam.decision.judgment import Judgment, judge
from crosscam.decision.trials import Trials, collect

__all__ = [
    "Calibration",
    "Drift",
    "Judgment",
    "Threshold",
    "Trials",
    "collect",
    "fit",
    "judge",
]
