"""`fed privacy audit` says what the library says of a file, and what it cannot tell is no yes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.privacy.audit import Finding, canary_fit, inversion, membership, noise_fit, one_run
from tests.privacy.commands_world import CLAIM, Fed, data_of
from tests.variants import mostly_slow

# audit


AUDITS: dict[str, Callable[[Any, Any], Finding]] = {
    "canaries": lambda s, i: canary_fit(s[i], s[~i], epsilon=1, delta=1e-5),
    "membership": lambda s, i: membership(s[i], s[~i], epsilon=1, delta=1e-5),
    "one-run": lambda s, i: one_run(s, i, epsilon=1, delta=1e-5),
}


def save_scores(folder: Path, scores: Sequence[Any], included: Sequence[Any]) -> list[Path]:
    """The same canaries in each of the three forms."""
    text = "".join(
        f"{s!r},{int(i)}\n" for s, i in zip(list(map(float, scores)), included, strict=True)
    )
    (folder / "plain.csv").write_text(text)
    (folder / "headed.csv").write_text("score, included\r\n" + text.replace("\n", "\r\n"))
    for name, options in (
        ("spaced.txt", {}),
        ("numpy.csv", {"delimiter": ","}),
        ("numpy headed.csv", {"delimiter": ", ", "header": "score,included"}),
        ("tabs.tsv", {"delimiter": "\t", "fmt": ("%.17g", "%d")}),
    ):
        both = np.c_[np.asarray(scores, np.float64), np.asarray(included)]
        np.savetxt(folder / name, both, **options)
    np.save(folder / "both.npy", np.column_stack([scores, included]).astype(np.float64))
    np.savez(folder / "bool.npz", scores=scores, included=np.asarray(included, bool))
    np.savez_compressed(
        folder / "whole.npz", scores=scores, included=np.asarray(included, np.uint8)
    )
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", mostly_slow(AUDITS))
def test_audits_by_scores_say_what_the_library_says_whatever_the_file(
    fed: Fed, tmp_path: Path, kind: str
) -> None:
    random = np.random.default_rng(5)
    included = random.integers(2, size=1500).astype(bool)
    for shift, code, outcome in ((0.25, 0, "passed"), (4.0, 1, "failed")):
        scores = random.normal(size=1500) + shift * included
        folder = tmp_path / outcome
        folder.mkdir()
        expected = AUDITS[kind](scores, included)
        assert expected.verdict.outcome == outcome
        for path in save_scores(folder, scores.tolist(), included.tolist()):
            found, out, err = fed("audit", kind, path, *CLAIM)
            assert (found, out, err) == (code, f"{expected}\n", "")
        found, out, _ = fed("audit", kind, path, *CLAIM, "--format", "json")
        assert found == code
        assert data_of(out, f"audit {kind}") == json.loads(json.dumps(expected.as_dict()))


def test_what_an_audit_cannot_tell_is_not_a_yes(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("1,1\n0.5,0\n0.7,1\n0.2,0\n")
    for kind in ("canaries", "one-run", "membership"):
        code, out, _ = fed("audit", kind, tmp_path / "few.csv", *CLAIM)
        assert code == 1 and "inconclusive: " in out
    assert "inconclusive" in fed("audit", "noise", "--help")[1]


def test_noise_is_audited_from_a_file(fed: Fed, tmp_path: Path) -> None:
    samples = np.rint(np.random.default_rng(3).normal(scale=100, size=(2, 20_000))).astype(np.int64)
    path = tmp_path / "noise.npy"
    for array in (samples, samples[0].astype(">i4"), np.asfortranarray(samples)):
        np.save(path, array)
        for variance, code in (("10000", 0), ("20000/2", 0), ("10000.5", 0), ("11000", 1)):
            expected = noise_fit(array.astype(np.int64), Fraction(variance))
            found, out, _ = fed("audit", "noise", path, "--variance", variance)
            assert (found, out) == (code, f"{expected}\n")
    found, out, _ = fed(
        "audit", "noise", path, "--variance", "10000", "--kind", "discrete",
        "--significance", "1e-9", "--format", "jsonl",
    )  # fmt: skip
    data = data_of(out, "audit noise")
    assert (found, data["kind"], data["verdict"]["outcome"]) == (0, "discrete", "passed")
    np.save(path, samples[0, :50])
    assert fed("audit", "noise", path, "--variance", "10000")[0] == 1


def test_an_inversion_is_tried_from_a_file(fed: Fed, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    example, cotangent = random.normal(size=1000), random.normal(size=10)
    gradient = np.outer(cotangent, example)
    path = tmp_path / "gradient.npz"
    for noise, code in ((0.0, 1), (1e3, 0)):
        weights = gradient + noise * random.normal(size=gradient.shape)
        biases = cotangent + noise * random.normal(size=10)
        np.savez(path, weight_gradient=weights, bias_gradient=biases, true_input=example)
        expected = inversion(weights, biases, example)
        assert fed("audit", "inversion", path)[:2] == (code, f"{expected}\n")
        _, out, _ = fed("audit", "inversion", path, "--format", "json")
        assert data_of(out, "audit inversion")["verdict"] == expected.verdict.as_dict()


@pytest.mark.parametrize(
    ("kind", "name", "content", "code"),
    [
        ("one-run", "none", None, "FED-1109"),
        ("one-run", "text.csv", b"", "FED-1102 FED-1103 FED-1101"),
        ("one-run", "text.csv", b"1,1\n2,2\n", "FED-1201"),
        ("one-run", "text.csv", b"1;1\n", "FED-1201"),
        ("one-run", "text.csv", b"1,1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"1,,1\n", "FED-1201"),
        ("one-run", "text.csv", b"1 0.5\n", "FED-1201"),
        ("one-run", "text.csv", b"1\n", "FED-1201"),
        ("one-run", "text.csv", b"included,score\n1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"nan,1\n1,0\n", "FED-1109"),
        ("one-run", "text.csv", b"\xff\xfe1,1\n", "FED-1201"),
        ("one-run", "text.csv", b"1,1\n" * 60, "FED-1109"),
        ("one-run", "cube.npy", np.zeros((2, 2, 2)), "FED-1201"),
        ("one-run", "share.npy", np.array([[1, 0.5], [2, 1]]), "FED-1201"),
        ("noise", "text.npy", b"1,2,3", "FED-1201"),
        ("noise", "float.npy", np.zeros(9), "FED-1102"),
        ("noise", "object.npy", np.array([{}, []], object), "FED-1201"),
        ("noise", "complex.npy", np.zeros(3, complex), "FED-1201"),
        ("noise", "record.npy", np.zeros(3, [("a", "i8")]), "FED-1201"),
        ("noise", "scalar.npy", np.zeros((), np.int64), "FED-1101"),
        ("noise", "arrays.npz", {"a": np.zeros(3, np.int64)}, "FED-1201"),
        ("inversion", "array.npy", np.zeros((3, 3)), "FED-1201"),
        ("inversion", "arrays.npz", {"weight_gradient": np.zeros((3, 3))}, "FED-1201"),
        ("inversion", "broken.npz", b"PK\x03\x04 and nothing more", "FED-1201"),
        (
            "inversion",
            "shapes.npz",
            {
                "weight_gradient": np.zeros((3, 3)),
                "bias_gradient": np.zeros(2),
                "true_input": np.arange(3.0),
            },
            "FED-1101",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(
    fed: Fed, tmp_path: Path, kind: str, name: str, content: Any, code: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    more = {"one-run": CLAIM, "noise": ("--variance", "4"), "inversion": ()}[kind]
    found, out, err = fed("audit", kind, path, *more)
    assert out == "" and err[:8] in code.split() and "\n  Why: " in err and "\n  Fix: " in err
    assert found == (4 if err[:8] in {"FED-1109", "FED-1201", "FED-1202"} else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("audit",),
        ("audit", "noise", "x.npy"),
        ("audit", "noise", "x.npy", "--variance", "1/x"),
        ("audit", "noise", "x.npy", "--variance", "4", "--kind", "gaussian"),
        ("audit", "one-run", "x.npy", "--epsilon", "1"),
        ("audit", "one-run", "x.npy", "--delta", "1e-5"),
        ("audit", "replay"),
        ("verify",),
        ("show", "a", "b"),
        ("plan", "--pop", "3"),
    ],
)
def test_arguments_that_are_none_are_refused(fed: Fed, arguments: tuple[str, ...]) -> None:
    code, out, err = fed(*arguments)
    assert (code, out) == (4, "") and err.startswith("FED-1109 fed privacy")


def test_a_claim_that_bounds_nothing_is_refused(fed: Fed, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("1,1\n0.5,0\n0.7,1\n0.2,0\n")
    for claim in (("-1", "1e-5"), ("nan", "1e-5"), ("1", "1"), ("inf", "0")):
        code, out, err = fed(
            "audit", "one-run", tmp_path / "few.csv", "--epsilon", claim[0], "--delta", claim[1]
        )
        assert (code, out) == (4, "") and "no meaningful bound" in err
