"""CSV tables read back as written; errors name the line and column and never the cell's text."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.data import load_csv
from fedcore.errors import ArgumentError, DataFormatError, DatasetError

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8).map(str.strip)
cells = st.tuples(st.none() | st.floats(allow_nan=False, allow_infinity=False), words)


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cells, min_size=1, max_size=12), st.booleans(), st.sampled_from(",;\t"))
def test_numbers_and_words_read_back_as_written(
    tmp_path: Path, rows: list[tuple[float | None, str]], header: bool, delimiter: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([["n", "w"]] * header)
    writer.writerows([["?" if n is None else repr(n), w] for n, w in rows])
    path = write(tmp_path, stream.getvalue())
    table = load_csv(
        path, header=header, names=["n", "w"], categorical=["w"], delimiter=delimiter, missing=["?"]
    )
    numbers = [math.nan if n is None else n for n, _ in rows]
    np.testing.assert_array_equal(table["n"], numbers)
    vocabulary = table.vocabularies["w"]
    assert list(vocabulary) == sorted({w for _, w in rows} - {"?"})
    texts = ["?" if code < 0 else vocabulary[code] for code in table["w"]]
    assert texts == [w for _, w in rows]


def test_columns_are_chosen_by_name_or_position(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,c\n1,x,0\n2,y,1\n\n3,?,1\n")
    table = load_csv(path, categorical=[1])
    assert table["a"].tolist() == table[0].tolist() == table[-3].tolist() == [1, 2, 3]
    assert table["b"].tolist() == [0, 1, -1] and len(table) == 3
    data = table.dataset(label="c", exclude=["a"])
    np.testing.assert_array_equal(data.x, np.array([[0], [1], [np.nan]], np.float32))
    assert data.y.tolist() == [0, 1, 1] and data.y.dtype == np.float32
    one_hot = table.dataset(label=-1, exclude=[0], encode="one_hot")
    assert one_hot.x.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert table.dataset(label="c").x.shape == (3, 2)


def test_a_headerless_table_numbers_its_columns(tmp_path: Path) -> None:
    table = load_csv(write(tmp_path, "1,2\n3,4\n"), header=False)
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "0": [1, 3],
        "1": [2, 4],
    }


def test_clients_that_give_one_vocabulary_have_one_code_a_word(tmp_path: Path) -> None:
    vocabulary = {"kind": ["cat", "dog", "cow"]}
    codes = [
        load_csv(write(tmp_path, text), vocabularies=vocabulary)["kind"].tolist()
        for text in ("kind\ncow\n", "kind\ncat\ncow\n?\n")
    ]
    assert codes == [[2], [0, 2, -1]]


def test_comments_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff|made by hand\r\na, b\r\n|more\r\n1, 2\r\n")
    assert load_csv(path, comment="|")["b"].tolist() == [2]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a,b\n1,2\n3\n", ":3", "row of 1 cells"),
        ("a,b\n1,2\n\n3,4,5\n", ":4", "row of 3 cells"),
        ("a,b\n1,2\n3,secret\n", ":3", "no finite number in column 'b'"),
        ("a,b\n1,inf\n", ":2", "no finite number in column 'b'"),
        ("a,b\n1,nan\n", ":2", "no finite number in column 'b'"),
        ("a,b\n1,1_0\n", ":2", "no finite number in column 'b'"),
        ("a,b\n1,1e999\n", ":2", "no finite number in column 'b'"),
        ('a,b\n"1,2\n3,4\n', ":3", "no CSV"),
        ('a,b\n"1"x,2\n', ":2", "no CSV"),
        ("a,a\n1,2\n", "", "two columns alike"),
        ("a,b\n", "", "has no rows"),
        ("", "", "has no rows"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    tmp_path: Path, text: str, line: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataFormatError, match=message) as caught:
        load_csv(path)
    assert caught.value.where == f"{path}{line}" and caught.value.why and caught.value.fix
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "kind\n"])
def test_a_file_without_rows_is_malformed_whatever_columns_are_asked_for(
    tmp_path: Path, text: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataFormatError, match="has no rows") as caught:
        load_csv(path, categorical=["kind"], comment="#")
    assert caught.value.where == str(path)


def test_a_column_that_does_not_exist_is_named_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,2\n")
    with pytest.raises(ArgumentError, match="'kind'") as caught:
        load_csv(path, categorical=["kind"])
    assert caught.value.where == str(path)


def test_an_unknown_word_is_refused_without_being_told(tmp_path: Path) -> None:
    path = write(tmp_path, "kind\ncat\nsecret\n")
    with pytest.raises(DataFormatError, match="outside the vocabulary of column 'kind'") as caught:
        load_csv(path, vocabularies={"kind": ["cat"]})
    assert caught.value.where == f"{path}:3" and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"categorical": ["z"]},
        {"categorical": [2]},
        {"vocabularies": {"z": ["a"]}},
        {"delimiter": ""},
        {"delimiter": "::"},
        {"delimiter": " "},
        {"delimiter": "\n"},
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentError):
        load_csv(write(tmp_path, "a,b\n1,2\n"), **options)


def test_a_table_without_labels_or_features_is_no_dataset(tmp_path: Path) -> None:
    table = load_csv(write(tmp_path, "a,b\n1,2\n?,3\n"))
    with pytest.raises(DatasetError, match="1 of 2 labels are missing"):
        table.dataset(label="a")
    with pytest.raises(ArgumentError, match="0 features"):
        table.dataset(label="b", exclude=["a"])
    with pytest.raises(ArgumentError, match="no column 'c'"):
        table.dataset(label="c")
    with pytest.raises(ArgumentError, match="encode='binary'"):
        table.dataset(label="b", encode="binary")  # type: ignore[arg-type]


def test_a_table_prints_its_columns_and_no_data(tmp_path: Path) -> None:
    path = write(tmp_path, "age,ward\n31.5,north\n58.25,south\n31.5,north\n")
    table = load_csv(path, categorical=["ward"])
    assert repr(table) == "Table('table.csv', 3 rows, age float64, ward 2 categories)"
    wide = load_csv(write(tmp_path, "1," * 29 + "1\n"), header=False)
    assert repr(wide).endswith("and 22 more)") and len(repr(wide)) < 200


def test_a_cell_that_is_too_long_is_refused_with_how_long_it_may_be(tmp_path: Path) -> None:
    path = write(tmp_path, f"a,b\n1,{'x' * 131_073}\n")
    with pytest.raises(DataFormatError) as caught:
        load_csv(path, categorical=["b"])
    assert "131072 characters" in caught.value.fix
    path = write(tmp_path, f"a,b\n1,{'x' * 131_072}\n")
    assert len(load_csv(path, categorical=["b"])) == 1


def test_a_column_of_words_of_its_own_does_not_fill_a_memory(tmp_path: Path) -> None:
    rows = 20_000
    path = write(tmp_path, "a,b,y\n" + "".join(f"w{i},{i % 3},{i % 2}\n" for i in range(rows)))
    table = load_csv(path, categorical=["a", "b", "y"])
    with pytest.raises(DatasetError, match="one_hot makes") as caught:
        table.dataset(label="y", encode="one_hot")
    assert caught.value.where == "column 'a', of 20000 words"
    assert table.dataset(label="y", encode="one_hot", exclude=["a"]).x.shape == (rows, 3)
    assert table.dataset(label="y").x.shape == (rows, 2)
