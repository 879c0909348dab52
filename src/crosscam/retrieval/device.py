"""The tiles of ``rank`` on a torch device.

The matrix products and the comparisons run there; what a tile cannot decide is decided on the
host by the same exact scores as everywhere, so the results are those of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from crosscam.errors import FeatureError, MissingExtraError
from crosscam.retrieval import kernels as kernel_choice
from crosscam.retrieval.lists import Lists, blocks
from crosscam.retrieval.pairs import FeaturePairs, Floats, Indices, Singles

if TYPE_CHECKING:
    import torch

__all__ = ["candidates_on_device", "count_better_on_device", "resolve_device"]


def resolve_device(device: str) -> tuple[ModuleType, str]:
    """The kernels to use on the host, and where tiles are made: "cpu" or a torch device.

    ``"cpu"`` is the compiled path (NumPy where numba is missing), ``"numpy"`` the NumPy path.
    Everything else is handed to torch (``"cuda"``, ``"cuda:1"``); ``"torch:cpu"`` is torch's CPU.
    """
    if device in ("cpu", "numpy"):
        return kernel_choice.load(compiled=device == "cpu"), "cpu"
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f'device="{device}" needs torch, which is not installed. Install torch, '
            'or use device="cpu".'
        ) from error
    name = device.removeprefix("torch:")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise FeatureError(
            f'device="{device}" cannot be used here ({reason}). Use device="cpu".'
        ) from error
    return kernel_choice.load(), device if device.startswith("torch:") else f"torch:{name}"


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in true float32: the error bound of a tile does not hold for TF32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


_KEPT_BYTES = 1 << 30
"""Of the gallery's packed blocks: what is looked through again and again stays on the device."""


class _DeviceTiles:
    """Makes tiles on a device; queries stay there, the gallery passes through in blocks."""

    def __init__(self, pairs: FeaturePairs, device: str) -> None:
        import torch

        self.pairs, self.device = pairs, torch.device(device.removeprefix("torch:"))
        self.query = self.send(pairs.packed_query)
        self.kept: dict[int, torch.Tensor] = {}
        self.room = _KEPT_BYTES

    def send(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def pack(self, start: int, stop: int) -> torch.Tensor:
        first, last = self.pairs.images(start, stop)
        packed = np.empty((last - first, self.pairs.width), np.float32)
        return self.send(self.pairs.pack_gallery(first, last, packed))

    def pack_again(self, start: int, stop: int) -> torch.Tensor:
        """As ``pack``, for who comes back with the same blocks: they stay, if they fit."""
        found = self.kept.get(start)
        if found is None:
            found = self.pack(start, stop)
            size = found.numel() * found.element_size()
            if size <= self.room:
                self.room -= size
                self.kept[start] = found
        return found

    def tile(
        self, first: int, last: int, packed: torch.Tensor, start: int, stop: int
    ) -> torch.Tensor:
        tile = self.query[first:last] @ packed.T
        lengths = self.pairs.images_per_column(start, stop)
        if lengths is None:
            return tile
        owner = self.send(np.repeat(np.arange(stop - start), lengths)).expand(len(tile), -1)
        best = tile.new_full((len(tile), stop - start), -float("inf"))
        return best.scatter_reduce_(1, owner, tile, "amax")

    def mask(self, tile: torch.Tensor, excluded: Lists, first: int, start: int) -> None:
        bounds = excluded.start[first : first + len(tile) + 1]
        columns = excluded.values[bounds[0] : bounds[-1]] - start
        rows = np.repeat(np.arange(len(tile)), np.diff(bounds))
        inside = (columns >= 0) & (columns < tile.shape[1])
        tile[self.send(rows[inside]), self.send(columns[inside])] = -float("inf")


def count_better_on_device(
    pairs: FeaturePairs,
    thresholds: Lists,
    score: Floats,
    lower: Singles,
    upper: Singles,
    excluded: Lists,
    *,
    device: str,
    block: int,
) -> Indices:
    """``rank.count_better`` with its tiles on a torch device."""
    import torch

    n_queries, n_columns = pairs.shape
    make = _DeviceTiles(pairs, device)
    counts = np.zeros(len(score), np.int64)
    row_blocks = []
    for first, last in blocks(n_queries, block):
        bounds = thresholds.start[first : last + 1]
        sizes = np.diff(bounds)
        most = int(sizes.max())
        if not most:
            continue
        # The thresholds of each query as a row, ascending, filled up with infinity.
        inside = np.arange(most) < sizes[:, None]
        padded = np.full((2, *inside.shape), np.inf, np.float32)
        padded[0][inside] = lower[bounds[0] : bounds[-1]]
        padded[1][inside] = upper[bounds[0] : bounds[-1]]
        row_blocks.append((first, last, inside, make.send(padded[0]), make.send(padded[1])))
    with _full_precision():
        for start, stop in blocks(n_columns, block):
            packed = make.pack(start, stop)
            for first, last, inside, low, high in row_blocks:
                tile = make.tile(first, last, packed, start, stop)
                make.mask(tile, excluded, first, start)
                most = inside.shape[1]
                reached, columns = (tile >= low[:, :1]).nonzero(as_tuple=True)
                passed = torch.zeros(len(tile) * (most + 1), dtype=torch.int64, device=tile.device)
                unsure = []
                for begin in range(0, len(reached), max(1, 2**22 // most)):
                    part = slice(begin, begin + max(1, 2**22 // most))
                    r, c = reached[part], columns[part]
                    value = tile[r, c][:, None]
                    above = (value > high[r]).sum(1)
                    open_ = (value >= low[r]).sum(1) > above
                    passed += torch.bincount(r * (most + 1) + above, minlength=len(passed))
                    unsure.append((r[open_], c[open_]))
                # A score that passed n thresholds is above the n lowest ones.
                by_passed = passed.reshape(len(tile), most + 1).cpu().numpy()
                above_each = by_passed[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
                bounds = thresholds.start[first : last + 1]
                counts[bounds[0] : bounds[-1]] += above_each[inside]
                if not unsure:
                    continue
                r, c = (torch.cat(part) for part in zip(*unsure, strict=True))
                if not len(r):
                    continue
                value = tile[r, c][:, None]
                open_at = ((value >= low[r]) & (value <= high[r])).nonzero().cpu().numpy()
                queries, places = r.cpu().numpy(), c.cpu().numpy() + start
                exact = pairs.exact(queries + first, places)
                pair, nth = open_at[:, 0], open_at[:, 1]
                at = bounds[queries[pair]] + nth
                equal = exact[pair] == score[at]
                better = (exact[pair] > score[at]) | (
                    equal & (places[pair] < thresholds.values[at])
                )
                np.add.at(counts, at[better], 1)
    return counts


def candidates_on_device(
    pairs: FeaturePairs,
    k: int | None,
    excluded: Lists | None,
    row_blocks: list[tuple[int, int]],
    *,
    device: str,
    block: int,
) -> Iterator[tuple[Indices, Indices]]:
    """``rank.candidates`` with its tiles on a torch device."""
    import torch

    n_columns = pairs.shape[1]
    make = _DeviceTiles(pairs, device)
    slack = make.send((2.1 * pairs.error).astype(np.float32))
    for first, last in row_blocks:
        with _full_precision():
            tile = torch.cat(
                [
                    make.tile(first, last, make.pack_again(start, stop), start, stop)
                    for start, stop in blocks(n_columns, block)
                ],
                dim=1,
            )
            room = slack[first:last, None]
            if k is None:
                found = tile <= tile.amin(dim=1, keepdim=True) + room
            else:
                if excluded is not None:
                    make.mask(tile, excluded, first, 0)
                kth = torch.topk(tile, min(k, n_columns), dim=1, sorted=True).values[:, -1:]
                found = (tile >= kth - room) & (tile > -float("inf"))
            places = found.nonzero().cpu().numpy()
        yield places[:, 0] + first, places[:, 1]
