"""No error leaves its reader alone: it says what happened, why, and what to do, in every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from fedcore import errors
from fedcore.errors import FedcoreError

__all__ = ["every_error_says_all"]

_TESTS = str(Path(__file__).resolve().parent)
_CLASSES = str(Path(errors.__file__).resolve().parent)


@pytest.fixture(scope="module", autouse=True)
def every_error_says_all() -> Iterator[None]:
    """Fails the test in which our code makes an error without one of the three texts."""
    make = FedcoreError.__init__

    def made(
        self: FedcoreError, what: str, *, why: str = "", fix: str = "", where: str = ""
    ) -> None:
        if not _maker(sys._getframe(1)).startswith(_TESTS):
            texts = {"what": what, "why": why, "fix": fix}
            unsaid = [name for name, text in texts.items() if not (text and type(text) is str)]
            assert not unsaid, f"a {type(self).__name__} does not say {unsaid}: {texts}"
        make(self, what, why=why, fix=fix, where=where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FedcoreError, "__init__", made)
        yield


def _maker(frame: FrameType) -> str:
    """The file that asked for an error, which its class may only pass on."""
    while frame.f_code.co_filename.startswith(_CLASSES) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename
