"""Inside a pass that trains, a part computes in its context or is refused."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.errors import ArgumentError, ShapeError
from fedcore.training import fit

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


class Forgetful(nn.Module):
    """Calls its parts without the context, within a module that hands it on."""

    def __init__(self) -> None:
        self.blocks = [nn.BatchNorm(4), nn.Dropout(0.5)]

    def forward(self, x: Any, ctx: nn.Context) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_part_called_without_the_context_of_a_training_pass_is_refused_by_its_path() -> None:
    model = nn.Sequential(nn.Linear(4, 4, key=0), Forgetful())
    message = r"layers\.1\.blocks\.0 \(BatchNorm\) is called without ctx"
    with pytest.raises(ArgumentError, match=message) as caught:
        model(X, ctx=nn.Context(model, training=True, key=0))
    assert "self.part(x, ctx=ctx)" in caught.value.fix
    with pytest.raises(ArgumentError, match=message):
        fit(
            model,
            (X, X),
            loss=nn.mse,
            optimizer=optim.SGD(lr=0.1),
            epochs=1,
            batch_size=4,
            progress=False,
        )


def test_a_part_called_without_the_context_of_a_given_state_is_refused() -> None:
    model = Forgetful()
    state, _ = nn.ravel_state(model)
    with pytest.raises(ArgumentError, match=r"blocks\.0 \(BatchNorm\)"):
        model(X, ctx=nn.Context(model, state=state + 1.0))


def test_in_an_evaluation_a_part_needs_no_context() -> None:
    model = Forgetful()
    np.testing.assert_array_equal(model(X).numpy(), model.blocks[0](X).numpy())


def test_another_model_inside_a_training_pass_takes_a_context_of_its_own() -> None:
    teacher = nn.Sequential(nn.BatchNorm(4))

    class Distilled(nn.Module):
        def __init__(self, *, explicit: bool) -> None:
            self.own, self.explicit = nn.BatchNorm(4), explicit

        def forward(self, x: Any, ctx: nn.Context) -> Any:
            taught = teacher(x, ctx=nn.Context(teacher)) if self.explicit else teacher(x)
            return self.own(x, ctx=ctx) - taught

    good, bad = Distilled(explicit=True), Distilled(explicit=False)
    result = good(X, ctx=nn.Context(good, training=True))
    expected = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5) - X / np.sqrt(np.float32(1 + 1e-5))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ArgumentError, match=r"Sequential is called without ctx") as caught:
        bad(X, ctx=nn.Context(bad, training=True))
    assert "Context(other)" in caught.value.fix


def test_a_pass_ends_with_its_call_even_if_it_fails() -> None:
    model = nn.BatchNorm(4)
    model(X, ctx=nn.Context(model, training=True))
    model(X)
    with pytest.raises(ShapeError):
        model(X[:, :2], ctx=nn.Context(model, training=True))
    model(X)


def test_a_pass_is_its_threads_own() -> None:
    other: list[fc.Tensor] = []

    class Meanwhile(nn.Module):
        def forward(self, x: Any, ctx: nn.Context) -> Any:
            thread = threading.Thread(target=lambda: other.append(nn.BatchNorm(4)(X)))
            thread.start()
            thread.join()
            return x

    model = Meanwhile()
    model(X, ctx=nn.Context(model, training=True))
    np.testing.assert_array_equal(other[0].numpy(), nn.BatchNorm(4)(X).numpy())


def test_a_module_whose_forward_takes_no_context_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ArgumentError, match=r"Plain\.forward takes no ctx") as caught:

        class Plain(nn.Module):
            def forward(self, x: Any) -> Any:
                return x

    assert "forward(self, x, ctx)" in caught.value.fix


def test_a_module_without_forward_cannot_be_called() -> None:
    class Named(nn.Module):
        def forwards(self, x: Any, ctx: nn.Context) -> Any:
            return x

    with pytest.raises(ArgumentError, match="Named has no forward"):
        Named()(X)
