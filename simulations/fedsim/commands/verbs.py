"""`fed sim`: simulate a scenario, a grid of them, and look at what came of it.

Standard output carries data, standard error the progress. A verb ends with 0 where it has done its
work, with 1 where a run was given up, with 4 where a scenario or a folder is wrong, and with 130
after Ctrl-C, which leaves a run that can be resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.console import Parser, common_options

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Runs `fed sim` with these arguments and returns its exit code. Raises: FedcoreError."""
    # Models, data and devices come with them: who asks another command for help need not wait.
    from fedsim.commands.compare import add_compare
    from fedsim.commands.export import add_export
    from fedsim.commands.folders import add_list, add_show
    from fedsim.commands.run import add_run
    from fedsim.commands.sweep import add_sweep

    parser = Parser(
        prog="fed sim",
        description="Simulate federations: whole populations on one machine.",
        parents=[common_options()],
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (add_run, add_sweep, add_compare, add_list, add_show, add_export):
        add(verbs)
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # of which the verb's own parser knows what it takes instead
        verbs.choices[options.verb].error(f"unrecognized arguments: {' '.join(unknown)}")
    return int(options.run(options))
