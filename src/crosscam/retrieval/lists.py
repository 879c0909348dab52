"""One list of numbers per query, in two arrays; and parts of a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosscam.retrieval.inputs import Labels
from crosscam.retrieval.pairs import Indices

__all__ = ["Lists", "blocks", "lists_by_label", "select"]


@dataclass(frozen=True)
class Lists:
    """One list of numbers per query: query i has ``values[start[i]:start[i + 1]]``."""

    start: Indices  # [Q + 1]
    values: Indices  # [T]

    @property
    def rows(self) -> Indices:
        """The query each value belongs to, [T]."""
        return self.rows_of(0, len(self.start) - 1)

    def rows_of(self, first: int, last: int) -> Indices:
        """The query of each value of queries first..last-1."""
        return np.repeat(np.arange(first, last), np.diff(self.start[first : last + 1]))


def _starts(rows: Indices, n: int) -> Indices:
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=start[1:])
    return start


def select(lists: Lists, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Lists:
    """The values for which ``keep`` [T] is true."""
    return Lists(_starts(lists.rows[keep], len(lists.start) - 1), lists.values[keep])


def lists_by_label(query_labels: Labels, column_labels: Labels) -> Lists:
    """For every query the positions (ascending) of the columns that have its label."""
    order = np.argsort(column_labels, kind="stable")
    by_label = column_labels[order]
    low = np.searchsorted(by_label, query_labels, "left")
    count = np.searchsorted(by_label, query_labels, "right") - low
    start = np.zeros(len(query_labels) + 1, np.int64)
    np.cumsum(count, out=start[1:])
    offset = np.arange(start[-1]) - np.repeat(start[:-1], count)
    return Lists(start, order[np.repeat(low, count) + offset])


def blocks(total: int, block: int) -> list[tuple[int, int]]:
    """(start, stop) of consecutive parts of ``block``, the last one shorter."""
    return [(start, min(start + block, total)) for start in range(0, total, block)]
