"""`fed privacy audit`: the audits that need no model, only what a run has left in files."""

from __future__ import annotations

import argparse
from typing import cast

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.privacy.audit import Finding, canary_fit, inversion, membership, noise_fit, one_run
from fedcore.privacy.commands.arguments import fraction
from fedcore.privacy.commands.files import read_array, read_arrays, read_scores

__all__ = ["add_audit"]

_EXIT = (
    "Ends with 0 if the audit passed. Ends with 1 if it failed, and also if it is inconclusive: "
    "whoever asks whether to go on is not to take that for a yes. The verdict tells the two apart."
)
_SCORES = (
    "FILE holds a score and 0 or 1, whether it was in, of each: as text `score,included` a line, "
    "as .npy of shape (n, 2), or as .npz with `scores` and `included`. Text may be what "
    "numpy.savetxt writes of (n, 2). "
)


def add_audit(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb and its audits."""
    parser = verbs.add_parser(
        "audit",
        parents=[common_options()],
        help="hold what was released, or an attack on it, against the claim",
        epilog=_EXIT,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    noise = _kind(
        kinds,
        "noise",
        "test the noise of rounds without clients against its law",
        "FILE is a .npy of integers, in grid steps: (n,) of one round, (rounds, n) of several.",
    )
    noise.set_defaults(audit=_noise)
    noise.add_argument(
        "--variance",
        type=fraction,
        required=True,
        metavar="NUM/DEN",
        help="the plan's, in squared grid steps",
    )
    noise.add_argument(
        "--kind",
        dest="law",
        choices=["rounded", "discrete"],
        default="rounded",
        help="the server's noise is rounded, the sum of clients' shares is discrete",
    )
    noise.add_argument("--significance", type=float, default=1e-6, help="default: 1e-6")
    for name, audit, confidence, text in (
        ("canaries", _canaries, 0.99, "estimate epsilon from the scores of canary clients"),
        ("one-run", _one_run, 0.95, "bound epsilon from below by canaries tossed in or out"),
        ("membership", _membership, 0.99, "hold a membership attack against the claimed epsilon"),
    ):
        scored = _kind(kinds, name, text, _SCORES)
        scored.set_defaults(audit=audit)
        scored.add_argument("--epsilon", type=float, required=True, help="what is claimed")
        scored.add_argument("--delta", type=float, required=True, help="what is claimed")
        scored.add_argument(
            "--confidence", type=float, default=confidence, help=f"default: {confidence}"
        )
    read = _kind(
        kinds,
        "inversion",
        "try to read an example from the gradient of a linear layer",
        "FILE is a .npz of `weight_gradient` (o, k), `bias_gradient` (o,) and `true_input` (k,).",
    )
    read.set_defaults(audit=_inversion)


def _kind(kinds: argparse._SubParsersAction[Parser], name: str, text: str, file: str) -> Parser:
    parser = kinds.add_parser(
        name, parents=[common_options()], help=text, description=file, epilog=_EXIT
    )
    parser.set_defaults(run=_run)
    parser.add_argument("file", metavar="FILE")
    return parser


def _run(options: argparse.Namespace) -> int:
    found: Finding = options.audit(options)
    console = Console.of(options, command=f"privacy audit {options.kind}")
    console.show(cast(Json, found.as_dict()), str(found))
    return ExitCode.OK if found.verdict.passed else ExitCode.FAILED


def _noise(options: argparse.Namespace) -> Finding:
    return noise_fit(
        read_array(options.file),
        options.variance,
        kind=options.law,
        significance=options.significance,
    )


def _canaries(options: argparse.Namespace) -> Finding:
    scores, included = read_scores(options.file)
    return canary_fit(
        scores[included],
        scores[~included],
        epsilon=options.epsilon,
        delta=options.delta,
        confidence=options.confidence,
    )


def _one_run(options: argparse.Namespace) -> Finding:
    scores, included = read_scores(options.file)
    return one_run(
        scores,
        included,
        epsilon=options.epsilon,
        delta=options.delta,
        confidence=options.confidence,
    )


def _membership(options: argparse.Namespace) -> Finding:
    scores, included = read_scores(options.file)
    return membership(
        scores[included],
        scores[~included],
        epsilon=options.epsilon,
        delta=options.delta,
        confidence=options.confidence,
    )


def _inversion(options: argparse.Namespace) -> Finding:
    weights, biases, example = read_arrays(
        options.file, ("weight_gradient", "bias_gradient", "true_input")
    )
    return inversion(weights, biases, example)
