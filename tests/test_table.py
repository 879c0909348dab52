"""Tables of spreadsheets: what every reader of CSV files relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscam.errors import DataError
from crosscam.table import read_header, read_table


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,Pid\na.jpg,1\nb.jpg,2\n",
        "path;pid\r\na.jpg;1\r\nb.jpg;2\r\n",
        "path\tpid\na.jpg\t1\nb.jpg\t2",
        "\ufeff path , pid \n a.jpg , 1 \n b.jpg,2,more\n",
    ],
)
def test_rows_by_column(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    table = read_table(path)
    assert table.columns == read_header(path) == ["path", "pid"]
    assert list(table) == [(2, {"path": "a.jpg", "pid": "1"}), (3, {"path": "b.jpg", "pid": "2"})]


def test_blank_lines_are_passed_over_and_lines_counted(tmp_path: Path) -> None:
    path = written(tmp_path, 'path,person,note\n\n , ,\na.jpg,"Ann,\nB."\nb.jpg\n')
    assert list(read_table(path)) == [
        (5, {"path": "a.jpg", "person": "Ann,\nB.", "note": ""}),
        (6, {"path": "b.jpg", "person": "", "note": ""}),
    ]


def test_separator_is_the_headers(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "\npath;note\na.jpg;one, two, three, four\n"))
    assert [row["note"] for _, row in table] == ["one, two, three, four"]


def test_nothing_is_a_table_without_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    assert read_header(path) == []
    assert len(read_table(path)) == 0


def test_header_is_read_without_what_follows(tmp_path: Path) -> None:
    path = written(tmp_path, "path,pid\n" + "x" * 140_000 + ",1\n")  # a cell beyond csv's limit
    assert read_header(path) == ["path", "pid"]
    with pytest.raises(DataError, match="line 2 cannot be read: field larger than"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path\n\xe4.jpg\n", r"not UTF-8 text \(byte 5\)"),
        ("path,pid,PATH\n", "the column 'path' more than once"),
    ],
)
def test_mistakes(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(written(tmp_path, text))


def test_a_header_may_be_looked_at_although_the_table_cannot_be_read(tmp_path: Path) -> None:
    assert read_header(written(tmp_path, "a,b,a\n1,2,3\n")) == ["a", "b", "a"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "none.csv")
