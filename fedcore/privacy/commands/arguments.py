"""Numbers of a command line, read exactly: a noise multiplier is a fraction, 1e6 an integer."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction

__all__ = ["count", "fraction"]

_FORM = re.compile(r"[0-9]+/[0-9]+|[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?")
_POWER = re.compile(r"[0-9]+(\.[0-9]+)?[eE]\+?[0-9]{1,2}")
_LONGEST = 2000


def count(text: str) -> int:
    """An integer, which may be written as 1e6.

    Raises: argparse.ArgumentTypeError for anything else.

    >>> count("1000"), count("1e6"), count("2.5e3")
    (1000, 1000000, 2500)
    """
    try:
        return int(text)
    except ValueError:
        pass
    if len(text) <= _LONGEST and _POWER.fullmatch(text):
        value = Fraction(text)
        if value.denominator == 1:
            return value.numerator
    raise argparse.ArgumentTypeError(f"{text!r:.40} is no integer like 1000 or 1e3")


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
