"""`fed privacy`: plan a guarantee, look at what was spent of it, prove it, and audit it from files.

Every verb prints data on standard output and nothing else. It ends with 0 where what was asked for
holds, with 1 where it does not or cannot be told, and with 4 where the question makes no sense.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.console import Parser, common_options
from fedcore.privacy.commands.audit import add_audit
from fedcore.privacy.commands.export import add_export
from fedcore.privacy.commands.plan import add_plan
from fedcore.privacy.commands.show import add_show
from fedcore.privacy.commands.verify import add_verify

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Runs `fed privacy` with these arguments and returns its exit code. Raises: FedcoreError."""
    parser = Parser(
        prog="fed privacy",
        description="Differential privacy: plans, ledgers, certificates and audits.",
        parents=[common_options()],
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (add_plan, add_show, add_verify, add_export, add_audit):
        add(verbs)
    options = parser.parse_args(argv)
    return int(options.run(options))
