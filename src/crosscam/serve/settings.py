"""What an operator decides about a service.  The defaults protect the people in the gallery."""

from __future__ import annotations

from dataclasses import dataclass

from crosscam.decision.calibration import RATES
from crosscam.errors import InputError

__all__ = ["ServiceSettings"]


@dataclass(frozen=True)
class ServiceSettings:
    """How a service behaves.

    Args:
        retention_days: sightings whose time is longer ago, or that have been in the gallery for
            longer, are deleted for good, every hour; 0 keeps them.
        compact_hours: so often the store's files are rewritten without what was deleted, and what
            is new is indexed; 0 never does.
        audit_days: lines of the audit log older than this are removed; 0 keeps them.
        require_reason: a search or a deletion without a reason is refused.
        per_minute: requests per token and minute.
        burst: requests that may come at once.
        max_upload_bytes: of one request, pictures and fields together.
        max_pictures: query pictures of one search.
        max_pixels: of one uploaded picture, judged before decoding.
        body_seconds: time a client has to send its request.
        searches: searches that run at a time; more wait, and far more are turned away.
        far: false-accept rate, in [0.001, 0.3], that decisions promise, where the encoder is
            calibrated.
        present: share of searches, in (0, 1), whose person is in the gallery.
    """

    retention_days: float = 30.0
    compact_hours: float = 24.0
    audit_days: float = 365.0
    require_reason: bool = False
    per_minute: float = 240.0
    burst: int = 60
    max_upload_bytes: int = 16_000_000
    max_pictures: int = 8
    max_pixels: int = 16_000_000
    body_seconds: float = 20.0
    searches: int = 4
    far: float = 0.01
    present: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("retention_days", 0, 36_525),
            ("compact_hours", 0, 8_784),
            ("audit_days", 0, 36_525),
            ("per_minute", 0.1, 1e9),
            ("burst", 1, 10**9),
            ("max_upload_bytes", 1_000, 10**9),
            ("max_pictures", 1, 1_000),
            ("max_pixels", 1_000, 10**9),
            ("body_seconds", 0.1, 3_600),
            ("searches", 1, 1_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise InputError(f"{name} must be in [{low:,g}, {high:,g}], got {value}.")
        if not RATES[0] <= self.far <= RATES[-1]:  # other rates are not calibrated
            raise InputError(f"far must be in [{RATES[0]}, {RATES[-1]}], got {self.far}.")
        if not 0 < self.present < 1:
            raise InputError(f"present must be between 0 and 1, got {self.present}.")
