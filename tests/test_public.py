"""The public names: complete, sorted, documented, and NumPy's where NumPy has the operation."""

from __future__ import annotations

import ast
import copy
import inspect
import os
import pickle
import pkgutil
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

import fedclient
import fedcore as fc
from fedcore import federated, nn, optim, privacy, rounds, secagg
from fedcore.errors import ArgumentError
from fedcore.privacy import audit
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.registry import operations

SURFACES = (
    fc,
    fc.random,
    nn,
    nn.init,
    optim,
    privacy,
    audit,
    secagg,
    rounds,
    federated,
    fedclient,
)
INTERNAL = {  # what the core calls by name, or what a method, an operator or a layer stands for
    "align_rank",
    "assemble",
    "at_length",
    "batch_norm",
    "batch_norm_training",
    "cast",
    "drop_leading",
    "embedding",
    "fold_lane",
    "fold_words",
    "gru",
    "index",
    "leaf",
    "lift",
    "lstm",
    "narrow",
    "patches",
    "rnn",
    "row_norms2",
    "scale_rows",
    "scatter_rows",
    "sum_lanes",
}
A = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4)).astype(np.float32)
B = np.random.default_rng(1).uniform(0.2, 0.9, (3, 4)).astype(np.float32)


def acronyms_then_classes(name: str) -> tuple[bool, bool, list[str | int]]:
    """As ruff sorts, which counts: log1p, log2, log10."""
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return not name.isupper(), not name[0].isupper(), parts


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.__name__)
def test_every_public_name_exists_in_order_and_is_documented(surface: ModuleType) -> None:
    assert surface.__all__ == sorted(surface.__all__, key=acronyms_then_classes)
    for name in surface.__all__:
        value = getattr(surface, name)
        if isinstance(value, Primitive):
            assert value.__doc__ != Primitive.__doc__, name
        if isinstance(value, Primitive | ModuleType | FunctionType | type):  # no name for a type
            assert (value.__doc__ or "").strip(), name


def run(program: str, *arguments: str) -> str:
    """What a program prints in a fresh interpreter."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


REACHED = """
import os, sys
import numpy, numpy.random  # once: nothing that is imported takes longer
for way in sys.argv[1:]:
    sys.stdout.flush()
    if not os.fork():  # each in an interpreter that has seen nothing of fedcore
        assert not any(name.startswith("fedcore") for name in sys.modules)
        exec(way)
        print(found)
        break
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks an interpreter")
def test_a_public_name_is_the_same_however_it_is_reached() -> None:
    own = "; from fedcore.public import tensor as own; found = found is own"
    ways = {
        "import fedcore.tensor.blas, fedcore; found = fedcore.tensor" + own: "True",
        "import fedcore.tensor.tensor; from fedcore import tensor as found" + own: "True",
        "from fedcore import tensor as found; import fedcore.tensor.blas" + own: "True",
        "from fedcore import *; found = tensor" + own: "True",
        "import fedcore; found = fedcore.random.__name__": "fedcore.random",
        "import fedcore; found = 'where' in dir(fedcore)": "True",
    }
    assert dict(zip(ways, run(REACHED, *ways).split(), strict=True)) == ways


def test_what_has_no_name_is_no_attribute_and_dir_lists_the_rest() -> None:
    with pytest.raises(AttributeError, match="module 'fedcore' has no attribute 'tensr'"):
        _ = fc.tensr
    with pytest.raises(ImportError, match="tensr"):
        exec("from fedcore import tensr")
    assert set(fc.__all__) <= set(dir(fc))


def test_only_two_public_names_are_those_of_submodules() -> None:
    parts = {module.name for module in pkgutil.iter_modules(fc.__path__)}
    assert parts & set(fc.__all__) == {"random", "tensor"}


def test_every_operation_is_public_or_known_to_be_internal() -> None:
    public = {id(getattr(surface, name)) for surface in SURFACES for name in surface.__all__}
    hidden = {name for name in operations if id(getattr(operations, name)) not in public}
    assert hidden == INTERNAL


def test_help_shows_what_an_operation_does_and_takes() -> None:
    shown = pydoc.render_doc(fc.where, renderer=pydoc.plaintext)
    assert "where(condition, a, b, /)" in shown and "`a` where `condition` is true" in shown
    assert list(inspect.signature(fc.exp).parameters) == ["x"]


def test_every_call_that_a_text_of_the_package_recommends_exists(root: Path) -> None:
    texts = [path.read_text() for path in (root / "fedcore").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"\bf(?:edcore|c)\.(\w+)\(", text)}
    assert "set" in named
    assert named <= set(fc.__all__)


def operations_in_public() -> list[Any]:
    shown = [getattr(surface, name) for surface in SURFACES for name in surface.__all__]
    return [value for value in shown if isinstance(value, Primitive | FunctionType)]


def test_a_public_operation_shows_itself_by_its_public_name() -> None:
    for surface in SURFACES:
        for name in surface.__all__:
            value = getattr(surface, name)
            if isinstance(value, Primitive | FunctionType):
                shown = {"abs": "absolute", "transpose": "permute_dims"}.get(name, name)
                assert (value.__name__, value.__qualname__) == (shown, shown)
    with pytest.raises(TypeError, match=r"^sum\(\) got"):
        fc.sum([1.0], where=True)


def test_a_public_operation_is_copied_and_pickled_by_name() -> None:
    for operation in operations_in_public():
        for again in (pickle.loads(pickle.dumps(operation)), copy.deepcopy(operation)):
            assert again is operation


def test_a_pickle_names_primitives_that_are_declared() -> None:
    text = pickle.dumps(fc.exp, protocol=0).replace(b"exp", b"system")
    with pytest.raises(ArgumentError, match="no primitive 'system'"):
        pickle.loads(text)


def test_a_model_with_functions_is_pickled_and_predicts_the_same_in_another_process() -> None:
    model = nn.Sequential(nn.Linear(2, 3, key=0), nn.relu, nn.Linear(3, 2, key=1), nn.tanh)
    predict = (
        "import pickle, sys\n"
        "sent, x = pickle.load(sys.stdin.buffer)\n"
        "print([pickle.loads(f)(x).tolist() for f in sent])"
    )
    x = fc.tensor([[0.5, -1.5], [2.0, 0.25]])
    values = (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    sent = pickle.dumps(([pickle.dumps(value) for value in values], x))
    found = subprocess.run([sys.executable, "-c", predict], input=sent, capture_output=True)
    assert ast.literal_eval(found.stdout.decode()) == [model(x).tolist()] * 3, found.stderr


UNARY = (
    "abs cos exp expm1 floor isfinite isnan log log1p logical_not negative reciprocal round sign "
    "sin sqrt square tanh all any argmax argmin max mean min prod std sum var cumsum ones_like "
    "zeros_like flip squeeze diagonal trace tril triu sort argsort"
)
BINARY = (
    "add divide equal floor_divide greater greater_equal less less_equal logaddexp logical_and "
    "logical_or maximum minimum multiply not_equal power remainder subtract"
)


@pytest.mark.parametrize("name", UNARY.split())
def test_an_operation_with_numpys_name_gives_numpys_result(name: str) -> None:
    check(getattr(fc, name)(A), getattr(np, name)(A))


@pytest.mark.parametrize("name", BINARY.split())
def test_an_operation_of_two_with_numpys_name_gives_numpys_result(name: str) -> None:
    check(getattr(fc, name)(A, B), getattr(np, name)(A, B))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (fc.allclose(A, A + 1e-9), np.allclose(A, A + 1e-9)),
        (fc.arange(2, 9, 3), np.arange(2, 9, 3)),
        (fc.broadcast_to(A[0], (2, 4)), np.broadcast_to(A[0], (2, 4))),
        (fc.clip(A, 0.3, 0.6), np.clip(A, 0.3, 0.6)),
        (fc.concatenate([A, B], axis=1), np.concatenate([A, B], axis=1)),
        (fc.contract("ij,kj->ik", A, B), np.einsum("ij,kj->ik", A, B)),
        (fc.expand_dims(A, 1), np.expand_dims(A, 1)),
        (fc.dot(A, B.T), np.dot(A, B.T)),
        (fc.eye(3), np.eye(3)),
        (fc.full((2, 3), 7.0), np.full((2, 3), 7.0)),
        (fc.linspace(0.2, 0.9, 7), np.linspace(0.2, 0.9, 7)),
        (fc.matmul(A, B.T), A @ B.T),
        (fc.moveaxis(A, 0, 1), np.moveaxis(A, 0, 1)),
        (fc.norm(A), np.linalg.norm(A)),
        (fc.ones((2, 3)), np.ones((2, 3))),
        (fc.outer(A[0], B[0]), np.outer(A[0], B[0])),
        (fc.pad(A, [(1, 0), (0, 2)]), np.pad(A, [(1, 0), (0, 2)])),
        (fc.permute_dims(A, (1, 0)), A.T),
        (fc.repeat(A, 2, axis=0), np.repeat(A, 2, axis=0)),
        (fc.reshape(A, (2, -1)), A.reshape(2, -1)),
        (fc.roll(A, 1, axis=0), np.roll(A, 1, axis=0)),
        (fc.split(A, 2, axis=1)[1], np.split(A, 2, axis=1)[1]),
        (fc.stack([A, B], axis=1), np.stack([A, B], axis=1)),
        (fc.swapaxes(A, 0, 1), np.swapaxes(A, 0, 1)),
        (fc.take(A, [2, 0], axis=0), np.take(A, [2, 0], axis=0)),
        (fc.tensordot(A, B.T, axes=1), np.tensordot(A, B.T, axes=1)),
        (fc.tile(A, (2, 1)), np.tile(A, (2, 1))),
        (fc.transpose(A), np.transpose(A)),
        (fc.where(A > B, A, B), np.where(A > B, A, B)),
        (fc.zeros((2, 3)), np.zeros((2, 3))),
    ],
)
def test_an_operation_with_options_gives_numpys_result(given: Any, expected: np.ndarray) -> None:
    check(given, expected)


ALONG = "all any argmax argmin cumsum flip max mean min prod sort argsort std sum var"


@pytest.mark.parametrize("name", ALONG.split())
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_axis_may_be_given_by_position_as_numpys(name: str, axis: int) -> None:
    check(getattr(fc, name)(A, axis), getattr(np, name)(A, axis))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("concatenate", ([A, B], 1)),
        ("stack", ([A, B], 1)),
        ("squeeze", (A[:, :1], 1)),
        ("expand_dims", (A, 1)),
        ("take", (A, [2, 0], 1)),
        ("take_along_axis", (A, np.array([[2, 0, 1, 1]]), 0)),
        ("repeat", (A, 2, 1)),
        ("roll", (A, 1, 1)),
        ("tensordot", (A, B.T, 1)),
        ("moveaxis", (A, 0, 1)),
        ("clip", (A, 0.3, 0.6)),
        ("isclose", (A, B)),
    ],
)
def test_a_call_by_position_means_what_numpys_means(name: str, args: tuple[Any, ...]) -> None:
    check(getattr(fc, name)(*args), getattr(np, name)(*args))


def test_parts_and_probabilities_take_their_axis_by_position() -> None:
    check(fc.split(A, 2, 1)[1], np.split(A, 2, 1)[1])
    for function in (nn.softmax, nn.log_softmax, fc.logsumexp):
        check(function(A, 0), function(A, axis=0).numpy())


def test_what_numpy_assigns_is_set_in_a_copy() -> None:
    changed, added = A.copy(), A.copy()
    changed[1, ::2] = 5.0
    np.add.at(added, [0, 0, 2], 1.0)
    check(fc.set(A, (1, slice(None, None, 2)), 5.0), changed)
    check(fc.add_at(A, [0, 0, 2], 1.0), added)
    check(fc.scatter_add(A, [0, 0, 2], np.ones((3, 4), np.float32)), added)


def check(given: Any, expected: Any) -> None:
    """Equal up to the rounding of single precision, in shape and, where NumPy keeps it, in kind."""
    assert given.shape == np.shape(expected)
    assert given.dtype.kind == np.asarray(expected).dtype.kind
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-5, atol=1e-6)
