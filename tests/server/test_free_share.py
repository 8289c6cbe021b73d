"""How full the disk is, is asked for with every call and looked at now and then."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from fedserver.disk import FreeShare

_Usage = namedtuple("_Usage", ["total", "used", "free"])


def test_a_disk_is_looked_at_again_once_its_share_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, free = 100.0, 40
    looked: list[Path] = []

    def disk_usage(folder: Path) -> _Usage:
        looked.append(folder)
        return _Usage(200, 200 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    share = FreeShare(tmp_path, fresh_s=0.25, now_s=lambda: now_s)
    assert share() == 0.2
    now_s, free = 100.2, 0
    assert share() == 0.2 and looked == [tmp_path]
    now_s = 100.25
    assert share() == 0.0 and looked == [tmp_path] * 2


def test_a_disk_that_cannot_be_looked_at_is_no_free_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FreeShare(tmp_path / "gone")()
