"""Error codes are a contract: unique, documented, and printed in one form."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from fedcore import errors
from fedcore.errors import FedcoreError, ShapeError, ShareError, registry, user_line

CLASSES = [
    item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, FedcoreError)
]
NAMED = [cls for cls in CLASSES if cls is not FedcoreError]


def test_every_code_has_the_documented_form() -> None:
    assert NAMED
    for cls in CLASSES:
        assert re.fullmatch(r"FED-\d{4}", cls.code), cls


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [cls.__dict__["code"] for cls in CLASSES]
    assert len(set(codes)) == len(codes)


def test_the_registry_holds_every_class_under_its_code_and_in_order() -> None:
    found = registry()
    assert list(found) == sorted(found)
    for cls in CLASSES:
        assert found[cls.code] is cls


def test_no_class_outside_the_module_shares_a_code() -> None:
    pending, codes = [FedcoreError], []
    while pending:
        cls = pending.pop()
        codes.append(cls.code)
        pending.extend(cls.__subclasses__())
    assert len(set(codes)) == len(codes)


def test_the_docstring_lists_exactly_the_classes_and_their_codes() -> None:
    listed = re.findall(r"── (\w+) +(FED-\d{4}) {2}\S", errors.__doc__ or "")
    assert sorted(listed) == sorted((cls.__name__, cls.code) for cls in NAMED)


def test_every_error_can_be_caught_as_the_builtin_it_refines() -> None:
    for cls in NAMED:
        builtin = [base for base in cls.__mro__ if base.__module__ == "builtins"]
        assert builtin[0] is not Exception, cls


def test_the_message_says_what_where_why_and_how_to_fix_it() -> None:
    error = ShapeError("what happened", why="the reason", fix="the remedy", where="train.py:41")
    assert str(error) == (
        "FED-1101 what happened\n  at train.py:41\n  Why: the reason\n  Fix: the remedy"
    )


@pytest.mark.parametrize(
    ("option", "line"), [("where", "  at x"), ("why", "  Why: x"), ("fix", "  Fix: x")]
)
def test_a_part_not_given_takes_no_line(option: str, line: str) -> None:
    assert str(ShapeError("what happened")) == "FED-1101 what happened"
    assert str(ShapeError("what happened", **{option: "x"})) == f"FED-1101 what happened\n{line}"


def test_the_parts_stay_readable_by_programs() -> None:
    error = ShapeError("a", why="b", fix="c", where="d")
    assert (error.what, error.why, error.fix, error.where) == ("a", "b", "c", "d")


def test_user_line_names_the_line_that_called_into_the_package(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from fedcore.errors import user_line\n\nfound = user_line()  # here\n")
    assert runpy.run_path(str(script))["found"] == "train.py:3: found = user_line()  # here"


@pytest.mark.parametrize("module", ["fedcore", "fedcore.optim.sgd"])
@pytest.mark.parametrize("file", [errors.__file__, "<string>"])
def test_user_line_skips_the_frames_of_the_package(tmp_path: Path, module: str, file: str) -> None:
    namespace = {"user_line": user_line, "__name__": module}
    exec(compile("def operation():\n    return user_line()", file, "exec"), namespace)
    script = tmp_path / "train.py"
    script.write_text("found = operation()\n")
    ran = runpy.run_path(str(script), init_globals={"operation": namespace["operation"]})
    assert ran["found"] == "train.py:1: found = operation()"


def test_user_line_is_in_a_package_of_a_name_that_begins_alike(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from fedcore.errors import user_line\n\nfound = user_line()\n")
    ran = runpy.run_path(str(script), run_name="fedcore_app.train")
    assert ran["found"] == "train.py:3: found = user_line()"


def test_an_error_in_a_generated_method_names_the_line_that_called_it(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from fedcore import optim\n\noptim.Adam(lr=-1)\n")
    with pytest.raises(FedcoreError) as caught:
        runpy.run_path(str(script))
    assert caught.value.where == "train.py:3: optim.Adam(lr=-1)"


def test_user_line_without_source_still_gives_file_and_line() -> None:
    namespace = {"user_line": user_line}
    exec(compile("\n\nfound = user_line()", "<typed at a prompt>", "exec"), namespace)
    assert namespace["found"] == "<typed at a prompt>:3"


@pytest.mark.parametrize("culprit", ["a client", 7, 1.5, bytearray(2)], ids=repr)
def test_an_error_can_be_read_whatever_was_called_its_culprit(culprit: Any) -> None:
    assert str(ShareError("shares differ", culprit=culprit)).endswith(f"Culprit: {culprit!r}")
    assert str(ShareError("shares differ", culprit=b"\x0a\xff")).endswith("Culprit: 0aff")
