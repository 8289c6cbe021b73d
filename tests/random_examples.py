"""How many random examples a test takes where the number of its profile does not fit it."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["thorough"]


def thorough(count: int) -> int:
    """So many in the thorough profile, and a quarter of them in the quick one."""
    return count if settings.get_current_profile_name() == "thorough" else max(4, count // 4)
