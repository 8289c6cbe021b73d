"""Numbers of a command line, read exactly: a noise multiplier or a variance is a fraction."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction

__all__ = ["fraction"]

_FORM = re.compile(r"[0-9]+/[0-9]+|[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?")
_LONGEST = 2000


def fraction(text: str) -> Fraction:
    """A number like 1.1 or 11/10, exactly as it is written.

    Raises: argparse.ArgumentTypeError for anything else.

    >>> fraction("1.1")
    Fraction(11, 10)
    """
    try:
        if len(text) <= _LONGEST and _FORM.fullmatch(text):
            return Fraction(text)
    except ZeroDivisionError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r:.40} is no number like 1.1 or 11/10")
