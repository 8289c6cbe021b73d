"""All stored cases of layers, attention, activations and losses, by one name each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.golden import (
    make_activations,
    make_attention,
    make_convolution,
    make_layers,
    make_losses,
)
from tests.golden.case import Case

FAMILIES = (make_activations, make_attention, make_convolution, make_layers, make_losses)

# name -> the case, the file that holds PyTorch's results, and its name in there
STORED: Mapping[str, tuple[Case, Path, str]] = {
    f"{family.FILE.stem}-{name}": (case, family.FILE, name)
    for family in FAMILIES
    for name, case in family.CASES.items()
}
CASES: Mapping[str, Case] = {name: case for name, (case, *_) in STORED.items()}
