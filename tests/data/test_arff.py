"""ARFF tables read back as written, with their declared vocabularies, and errors name the line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.data import load_arff
from fedcore.errors import DataFormatError

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)


def write(folder: Path, text: str) -> Path:
    path = folder / "table.arff"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def quoted(word: str, mark: str) -> str:
    return mark + re.sub(r"([\\'\"])", r"\\\1", word) + mark


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(words, min_size=1, max_size=5, unique=True),
    st.lists(st.tuples(st.none() | st.floats(-1e9, 1e9), st.integers(-1, 9)), min_size=1),
    st.sampled_from("'\""),
    words.filter(lambda name: name != "n"),
)
def test_numbers_and_quoted_words_read_back_as_written(
    tmp_path: Path,
    vocabulary: list[str],
    rows: list[tuple[float | None, int]],
    mark: str,
    name: str,
) -> None:
    codes = [min(code, len(vocabulary) - 1) for _, code in rows]
    texts = ["?" if code < 0 else quoted(vocabulary[code], mark) for code in codes]
    values = ["?" if n is None else repr(n) for n, _ in rows]
    header = f"@RELATION {quoted(name, mark)}\n@Attribute n REAL\n"
    nominal = " , ".join(quoted(word, mark) for word in vocabulary)
    body = "\n".join(f"{n} , {text}" for n, text in zip(values, texts, strict=True))
    path = write(tmp_path, f"{header}@attribute {quoted(name, mark)}{{{nominal}}}\n@DATA\n{body}\n")
    table = load_arff(path)
    assert table.vocabularies == {name: tuple(vocabulary)}
    assert table[1].tolist() == codes
    np.testing.assert_array_equal(table["n"], [np.nan if n is None else n for n, _ in rows])


def test_comments_blank_lines_and_every_kind_of_column_are_read(tmp_path: Path) -> None:
    text = """% a comment
@relation 'two words' % trailing

@attribute a numeric
@attribute "b c" integer % trailing
@attribute d {x, y} % trailing
@attribute 'it\\'s' string
@data % trailing
1, 2, x, hello
% between
 ?,-3.5e1, y, '?' % trailing

4,5,?,"50%, say"
"""
    table = load_arff(write(tmp_path, text))
    assert list(table.columns) == ["a", "b c", "d", "it's"]
    np.testing.assert_array_equal(table["a"], [1, np.nan, 4])
    assert table["b c"].tolist() == [2, -35, 5]
    assert table["d"].tolist() == [0, 1, -1]
    assert table.vocabularies == {"d": ("x", "y"), "it's": ("50%, say", "?", "hello")}
    assert table["it's"].tolist() == [2, 1, 0]


HEAD = "@relation r\n@attribute a numeric\n@attribute b {x,y}\n@data\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", ":0", "no @data"),
        ("@relation r\n@attribute a numeric\n", ":2", "no @data"),
        ("@relation r\n@data\n1\n", ":2", "no attribute"),
        ("@relation r\nhello\n", ":2", "no declaration"),
        ("@attribute\n@data\n", ":1", "malformed @attribute"),
        ("@attribute 'a numeric\n@data\n", ":1", "malformed @attribute"),
        ("@attribute a date\n@data\n1\n", ":1", "unsupported type"),
        ("@attribute a relational\n@data\n1\n", ":1", "unsupported type"),
        ("@attribute a {x,y\n@data\n1\n", ":1", "unsupported type"),
        ("@attribute a {x,x}\n@data\nx\n", ":1", "no or repeated values"),
        ("@attribute a real\n@attribute a real\n@data\n1,2\n", ":2", "twice"),
        (HEAD, "", "has no rows"),
        (HEAD + "1,x\n1\n", ":6", "row of 1 cells"),
        (HEAD + "1,x\n\n1,x,2\n", ":7", "row of 3 cells"),
        (HEAD + "secret,x\n", ":5", "no finite number"),
        (HEAD + "1,secret\n", ":5", "outside the vocabulary"),
        (HEAD + "1,'x\n", ":5", "quotes do not fit"),
        (HEAD + "1,'x'y\n", ":5", "quotes do not fit"),
        (HEAD + "{0 1, 1 x}\n", ":5", "sparse row"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    tmp_path: Path, text: str, line: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataFormatError, match=message) as caught:
        load_arff(path)
    assert caught.value.where == f"{path}{line}" and caught.value.why and caught.value.fix
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["'" * 200_001, " " * 200_000 + "'", "\\'" * 100_000 + "x"])
def test_a_hostile_line_takes_linear_time(tmp_path: Path, line: str) -> None:
    # The suite's time limit fails a quadratic reader: 4e10 steps.
    for text in (HEAD + f"1,{line}\n", f"@attribute {line}\n@data\n", f"@attribute a {{{line}\n"):
        with pytest.raises(DataFormatError):
            load_arff(write(tmp_path, text))


def test_a_header_of_many_attributes_takes_linear_time(tmp_path: Path) -> None:
    # The suite's time limit fails a reader that compares each with all before it: 5e9 steps.
    count = 100_000
    header = "\n".join(f"@attribute a{i} numeric" for i in range(count))
    path = write(tmp_path, f"@relation r\n{header}\n@data\n{'1,' * (count - 1)}1\n")
    assert len(load_arff(path).columns) == count
