"""What every test of this folder is held to."""

from __future__ import annotations

from tests.errors_said import every_error_says_all

__all__ = ["every_error_says_all"]
