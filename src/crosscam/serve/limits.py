"""How much one caller may ask for."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimit"]

_CALLERS = 10_000  # remembered at a time: some megabytes


class RateLimit:
    """A bucket of ``burst`` requests per caller that refills with ``per_minute``.

    Callers that were quiet longest are forgotten first, beyond 10,000 of them.
    """

    def __init__(
        self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.clock = per_minute / 60.0, burst, clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, cost: float = 1.0) -> float:
        """Counts ``cost`` requests; 0.0 if they may go on, else the seconds to wait."""
        now = self.clock()
        with self._lock:
            left, at = self._left.pop(caller, (float(self.burst), now))
            left = min(float(self.burst), left + (now - at) * self.rate)
            wait = 0.0 if left >= cost else (cost - left) / self.rate
            self._left[caller] = (left - cost if wait == 0.0 else left, now)
            if len(self._left) > _CALLERS:
                self._left.popitem(last=False)
        return wait
