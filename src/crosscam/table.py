"""Tables as people's spreadsheets write them: CSV files with a header line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from crosscam.errors import DataError

__all__ = ["Table", "read_header", "read_table"]


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file that are not blank; iterating gives (line number, cells by column)."""

    columns: list[str]
    """The cells of the header line, stripped, in lower case; none of them twice."""

    rows: list[tuple[int, list[str]]]
    """Line number in the file, 1 being the header's, and cells."""

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        width = len(self.columns)
        for line, cells in self.rows:
            named = zip_longest(self.columns, cells[:width], fillvalue="")
            yield line, {column: cell.strip() for column, cell in named}

    def __len__(self) -> int:
        return len(self.rows)


def read_table(path: Path) -> Table:
    """A CSV file in UTF-8.

    Cells are separated by what the header has most of: commas, semicolons or tabs.  A byte order
    mark is passed over.  An empty file is a table without columns.

    Raises:
        DataError: no such file, other bytes than UTF-8 text, a line that breaks the rules of CSV
            or a column that is there twice.
    """
    rows = list(_rows(path, _text(path)))
    columns = _columns(rows)
    twice = sorted({c for c in columns if c and columns.count(c) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once.")
    return Table(columns, rows[1:])


def read_header(path: Path) -> list[str]:
    """The columns of a table, whatever its rows are and even if it names one twice."""
    return _columns(list(islice(_rows(path, _text(path)), 1)))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start:,}). Save it as 'CSV UTF-8'."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Give a CSV file.") from error


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheets of some languages write ';'
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if any(c.strip() for c in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} cannot be read: {error}.") from error


def _columns(rows: list[tuple[int, list[str]]]) -> list[str]:
    return [c.strip().lower() for c in rows[0][1]] if rows else []
