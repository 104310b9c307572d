"""Text tables in every dialect give the same rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.data.text_tables import guarded, rows_of, unguarded
from lensmith.errors import UserError

ROWS = [
    {"id": "1", "label": "Käse, alt", "share": "0,5"},
    {"id": "2", "label": 'a "quoted" one', "share": ""},
    {"id": "3", "label": "two\nlines; here", "share": "1"},
]


def written(separator: str, end: str = "\r\n", rows: list[dict[str, str]] | None = None) -> str:
    rows = rows or ROWS
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), delimiter=separator, lineterminator=end)
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_dialect_gives_the_same_rows(tmp_path: Path, encoding: str, separator: str, end: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(written(separator, end).encode(encoding))
    assert [row for _, row in rows_of(path)] == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nid;label\r\n1;a\r\n",
        "id, label\n1, a\n",
        'id, "label"\n1, "a"\n',
        "id,label,,\n1,a,,\n\n,,,\n",
        " id ,label\n1,a\n",
    ],
)
def test_what_spreadsheets_add_is_left_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, newline="")
    assert [row for _, row in rows_of(path)] == [{"id": "1", "label": "a"}]


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n')
    assert [line for line, _ in rows_of(path)] == [3, 5]


def test_a_cell_may_be_large(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"id,image\n1,{'x' * 1_000_000}\n")
    assert len(next(rows_of(path))[1]["image"]) == 1_000_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,b\n1,2,3\n", "line 2 has more cells"),
        (b"a,a\n1,2\n", "two columns called 'a'"),
        (b"a,b\n1,\0\n", "null bytes"),
        (b"\xff\xfea\0,\0b\0\n\0\x01", "damaged"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says):
        list(rows_of(path))


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells.filter(bool), cells), min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_no_text_is_changed(tmp_path: Path, drawn: list[tuple[str, str]], separator: str) -> None:
    rows = [{"name": name, "label": label} for name, label in drawn]
    path = tmp_path / "t.csv"
    path.write_text(written(separator, rows=rows), encoding="utf-8", newline="")
    assert [row for _, row in rows_of(path)] == rows


@given(st.text(max_size=6))
def test_a_guarded_cell_is_no_formula_and_is_read_back(text: str) -> None:
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unguarded(guarded(text)) == text
