"""Mistakes in a file are told with the line that holds them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import TaskError
from fedcore.settings import Bounds, Options, Settings, read_settings, write_settings
from fedcore.toml import LARGEST_TEXT, locate, parse, read_file, read_table

KEYS = st.sampled_from(["a", "b", "kind", "lr", "x-1", "with space", "é", "a\nb", 'q"', "#"])
SCALARS = st.one_of(
    st.integers(-5, 5).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(
        [
            "0.5",
            "1e-3",
            '"# no comment"',
            "'[x]'",
            '"""two\nlines = \\"\\"\\" and ""quotes"""""',
            "'''a\n[b]\nc = '1' ''''",
            '"a\\"b = ]"',
            "2026-11-26",
        ]
    ),
)


@dataclass
class Written:
    """A text that grows, and the line of every path in it."""

    text: str = ""
    lines: dict[str, int] | None = None

    def note(self, path: str) -> None:
        assert self.lines is not None
        self.lines.setdefault(path, self.text.count("\n") + 1)


def quoted(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    escaped = key.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return key if bare else f'"{escaped}"'


def write_value(out: Written, path: str, data: st.DataObject, depth: int) -> None:
    kind = data.draw(st.sampled_from(["scalar"] * 3 + ["array", "inline"] * (depth > 0)))
    if kind == "scalar":
        out.text += data.draw(SCALARS)
    elif kind == "array":
        out.text += "["
        for index in range(data.draw(st.integers(0, 3))):
            out.text += data.draw(st.sampled_from(["", " ", "\n  ", " # so\n"]))
            out.note(f"{path}[{index}]")
            write_value(out, f"{path}[{index}]", data, depth - 1)
            out.text += data.draw(st.sampled_from([",", " ,", "\n,"]))
        out.text += data.draw(st.sampled_from(["]", "\n]", " # end\n]"]))
    else:
        out.text += "{ "
        keys = data.draw(st.lists(KEYS, unique=True, max_size=3))
        for index, key in enumerate(keys):
            out.text += ", " if index else ""
            out.note(f"{path}.{key}")
            out.text += f"{quoted(key)} = "
            write_value(out, f"{path}.{key}", data, depth - 1)
        out.text += " }"


def write_pairs(out: Written, path: str, data: st.DataObject, *, named: set[str]) -> None:
    for key in data.draw(st.lists(KEYS, unique=True, max_size=3)):
        place = f"{path}.{key}" if path else key
        if key in named:
            continue
        named.add(key)
        out.text += data.draw(st.sampled_from(["", "\n", "# a = 1\n", "\t"]))
        out.note(place)
        out.text += quoted(key)
        if data.draw(st.booleans()):
            inner = data.draw(KEYS)
            out.text += f" . {quoted(inner)}"
            place = f"{place}.{inner}"
            assert out.lines is not None
            out.lines.setdefault(place, out.text.count("\n") + 1)
        out.text += " = "
        write_value(out, place, data, 2)
        out.text += data.draw(st.sampled_from(["\n", "  # why\n"]))


@given(st.data())
def test_every_path_of_a_file_is_found_on_its_line(data: st.DataObject) -> None:
    out = Written(lines={})
    write_pairs(out, "", data, named={"t", "m"})
    for index in range(data.draw(st.integers(0, 2))):
        out.note(f"t{index}")
        out.note(f"t{index}.n")
        out.text += f"[t{index}.n]\n"
        write_pairs(out, f"t{index}.n", data, named=set())
    for index in range(data.draw(st.integers(0, 3))):
        out.note("m")
        out.note("m.layers")
        out.note(f"m.layers[{index}]")
        out.text += data.draw(st.sampled_from(["[[m.layers]]\n", "[[ m . layers ]] # x\n"]))
        write_pairs(out, f"m.layers[{index}]", data, named={"sub"})
        if data.draw(st.booleans()):
            out.note(f"m.layers[{index}].sub")
            out.text += "[m.layers.sub]\n"
            write_pairs(out, f"m.layers[{index}].sub", data, named=set())
    tomllib.loads(out.text)  # what was written is TOML
    assert out.lines is not None
    for path, line in out.lines.items():
        assert locate(out.text, path) == line, (path, out.text)
    crlf = out.text.replace("\n", "\r\n")
    assert all(locate(crlf, path) == line for path, line in out.lines.items())


@given(st.text(alphabet="[]{}=\"'.#\n ab,1\\", max_size=60))
def test_no_text_keeps_the_scanner_from_ending(text: str) -> None:
    found = locate(text, "a.b[0].c")
    assert found is None or 1 <= found <= text.count("\n") + 1


@pytest.mark.parametrize("part", ["a", '"b c"', "'.'"])
@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "[[{}]]", "x = {{ {} = 1 }}"])
def test_a_key_of_many_parts_is_refused_before_it_takes_long(part: str, form: str) -> None:
    with pytest.raises(TaskError, match="a key of more than 64 parts") as refused:
        parse("# ....\n" + form.format(" . ".join([part] * 100_000)), "task.toml")
    assert refused.value.where == "task.toml:2"
    assert parse(form.format(".".join([part] * 64)), "task.toml")


def test_what_stands_nowhere_is_placed_at_the_nearest_table_around_it() -> None:
    assert locate("\n[a.b]\nc = 1", "a.b.missing[3].x") == 2
    assert locate("a = 1", "b.c") is None


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    share: Fraction
    names: Annotated[tuple[str, ...], Bounds(length=(0, 2), pattern="[a-z]+")] = ()


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    count: Annotated[int, Bounds(least=1, most=9)]
    rate: Annotated[float, Bounds(above=0, below=1)] = 0.5
    kind: Literal["red", "green"] = "red"
    inner: Inner | None = None
    on: bool = False
    options: Options = ()


def refusal(text: str, schema: type[Any] = Outer) -> TaskError:
    with pytest.raises(TaskError) as caught:
        read_table(text, "file.toml", schema)
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        ("count = 1\ncuont = 2", 2, "cuont is no setting", "did you mean count?"),
        ("count = 1\n[inner]\nshare = 0.1\nnamse = []", 4, "inner.namse is no", "names?"),
        ("count = 1\nkind = 'gren'", 2, "kind = 'gren'", "'green'"),
        ("# a\ncount = 10", 2, "count = 10", ""),
        ("count = 1.0", 1, "count = 1.0", ""),
        ("count = true", 1, "count = True", ""),
        ("count = 1\nrate = 1", 2, "rate = 1.0", ""),
        ("count = 1\nrate = nan", 2, "rate = NaN", ""),
        ("count = 1\nrate = 1e999", 2, "rate = 1E+999", ""),
        ("count = 1\nrate = '0.5'", 2, "rate = '0.5'", ""),
        ("count = 1\non = 1", 2, "on = 1", ""),
        ("count = 1\ninner = 1", 2, "inner = 1", ""),
        ("count = 1\n[inner]\nnames = ['a']", 2, "inner.share is missing", "inner.share"),
        ("count = 1\ninner = {share = 1, names = ['a', 'B']}", 2, "inner.names", ""),
        ("count = 1\ninner = {share = 1, names = ['a',\n2]}", 3, "inner.names[1] = 2", ""),
        ("count = 1\ninner = {share = 1, names = ['a', 'b', 'c']}", 2, "inner.names", ""),
        ("count = 1\ninner.share = 1e99999", 2, "inner.share", ""),
        ("count = 1\ninner.share = '1/0'", 2, "inner.share", ""),
        ("count = 1\n[options]\nx = 2026-11-26", 3, "options.x", ""),
        ("count = 1\n[options]\nx = [[[1]]]", 3, "options.x[0][0]", ""),
        ("count = 1\ncount = 2", 2, "file.toml is no TOML", ""),
        ("count = 1\nx = ", 2, "file.toml is no TOML", ""),
        ("x = " + "[" * 5000, 0, "file.toml is no TOML", ""),
        ("x = 1" + "0" * 5000, 0, "file.toml is no TOML", ""),
        ("a = 1\n" * LARGEST_TEXT, 0, "file.toml has", ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_mistake_is_told_with_its_line(text: str, line: int, what: str, fix: str) -> None:
    error = refusal(text)
    assert what in error.what
    assert fix in error.fix
    if line:
        assert error.where == f"file.toml:{line}"


def test_values_keep_their_exact_meaning() -> None:
    text = """
        count = 3
        rate = 0.1
        on = true
        inner = { share = 0.1, names = ["a"] }
        [options]
        pair = [1, 2.5]
        name = "x"
    """
    found = read_table(text, "file.toml", Outer)
    assert found == Outer(
        count=3,
        rate=0.1,
        on=True,
        inner=Inner(share=Fraction(1, 10), names=("a",)),
        options=(("name", "x"), ("pair", (1, 2.5))),
    )
    assert parse("x = 0.1", "x")["x"] == Decimal("0.1")


def test_settings_cannot_be_made_out_of_their_bounds_by_hand_either() -> None:
    with pytest.raises(TaskError, match="count = 0"):
        Outer(count=0)


SETTINGS = st.builds(
    Outer,
    count=st.integers(1, 9),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    kind=st.sampled_from(["red", "green"]),
    inner=st.none()
    | st.builds(
        Inner,
        share=st.fractions(max_denominator=10**9),
        names=st.lists(st.text("abc", min_size=1, max_size=9), max_size=2).map(tuple),
    ),
    on=st.booleans(),
)


@given(SETTINGS)
def test_settings_are_read_back_as_they_were_written(settings: Outer) -> None:
    assert read_settings(write_settings(settings), Outer) == settings


@given(SETTINGS, st.data())
def test_a_key_that_no_setting_has_is_refused(settings: Outer, data: st.DataObject) -> None:
    written = write_settings(settings)
    known = {field.name for field in fields(Outer)}
    key = data.draw(st.text(max_size=8).filter(lambda text: text not in known))
    with pytest.raises(TaskError, match="no setting"):
        read_settings({**written, key: 1}, Outer)


def test_a_file_that_cannot_be_read_is_a_mistake_of_its_user(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.toml cannot be read"):
        read_file(tmp_path / "none.toml", Outer)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(TaskError, match=r"latin\.toml is no TOML"):
        read_file(tmp_path / "latin.toml", Outer)
    (tmp_path / "good.toml").write_text("count = 2")
    assert read_file(tmp_path / "good.toml", Outer) == Outer(count=2)
