"""People rendered from scratch: a data set with ground truth that needs nobody's consent.

``synthesize`` writes a set, ``contact_sheet`` a picture of what one looks like.
"""

from crosscam.synth.dataset import (
    PRESETS,
    Labels,
    Preset,
    read_annotations,
    read_labels,
    read_texture,
    synthesize,
)
from crosscam.synth.sheet import contact_sheet

__all__ = [
    "PRESETS",
    "Labels",
    "Preset",
    "contact_sheet",
    "read_annotations",
    "read_labels",
    "read_texture",
    "synthesize",
]
