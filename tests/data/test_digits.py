"""The bundled digits fall into 14 contiguous writer blocks."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedcore.data import group_by, load_digits
from fedcore.errors import InstallError


def test_the_digits_are_scaled_images_in_fourteen_contiguous_blocks() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (the extra 'demo')")
    dataset, block = load_digits()
    assert dataset.x.shape == (1797, 8, 8, 1) and dataset.x.dtype == np.float32
    assert dataset.x.min() == 0 and dataset.x.max() == 1
    assert np.bincount(dataset.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (np.diff(block) >= 0).all()
    sizes = [len(client) for client in group_by(dataset, block)]
    assert sizes == [130, 126, 130, 130, 130, 130, 139, 114, 128, 130, 128, 130, 122, 130]


def test_without_scikit_learn_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InstallError, match="scikit-learn is not installed") as caught:
        load_digits()
    assert "pip install" in caught.value.fix
