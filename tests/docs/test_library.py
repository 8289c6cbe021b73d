"""docs/library.md runs as pasted, and its models are as good as it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.docs.blocks import blocks_of


@pytest.mark.slow
def test_every_block_of_the_library_s_page_runs_and_finds_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the blocks read the digits of the extra 'demo'")
    pytest.importorskip("safetensors", reason="one block stores the model (the extra 'demo')")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of("docs/library.md", "python"):
        exec(compile(block.text, f"docs/library.md, line {block.line}", "exec"), names)
    shown = capsys.readouterr().out
    reached = [float(text) for text in re.findall(r"'accuracy': ([\d.]+)", shown)]
    assert len(reached) == 2
    assert min(reached) >= 0.96  # "about 0.97": one image of 359 weighs 0.003
    assert "FED-1101" in shown and "Fix: " in shown
    trained, restored = names["fitted"].model, names["restored"]  # type: ignore[attr-defined]
    for path, array in trained.state_dict().items():
        np.testing.assert_array_equal(restored.state_dict()[path], array)
