"""`python -m tests.fuzz TARGET RUNS`: inputs that atheris derives from the seeds by coverage.

It ends at the first finding, or after so many runs, and prints how many it made. What was found is
left in the working folder as `crash-…`; it becomes a seed in `corpus/` once it is mended.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris
import structlog

# What reads bytes; to see every branch of tensors and training would take minutes.
_SEEN = [
    "fedcore.checkpoint",
    "fedcore.federated",
    "fedcore.model_format",
    "fedcore.privacy",
    "fedcore.rounds",
    "fedcore.secagg",
    "fedcore.settings",
    "fedcore.toml",
    "fedcore.wire",
    "fedserver",
    "fedsim.scenario",
    "fedsim.scenario_spec",
]
with atheris.instrument_imports(include=_SEEN, exclude=["fedcore.privacy.audit"]):
    from tests.fuzz.formats import FORMATS
    from tests.fuzz.judge import Target, judge, measuring
    from tests.fuzz.seeds import seeds_of

_LONGEST = 8192
# For one input, by the clock: it hangs, and would never be judged. A machine may pause for minutes.
_MOST_S = 600


def main(name: str, runs: int) -> None:
    """Never returns: libFuzzer ends the process. Exit code 0: nothing was found."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target, seeds = _rpcs() if name == "rpcs" else _format(name)
    with tempfile.TemporaryDirectory() as folder, measuring():
        for number, data in enumerate(seeds):
            (Path(folder) / f"{number:04}").write_bytes(data)
        options = {"runs": runs, "max_len": _LONGEST, "timeout": _MOST_S, "print_final_stats": 1}
        flags = [f"-{key}={value}" for key, value in options.items()]
        atheris.Setup([sys.argv[0], *flags, folder], lambda data: judge(target, data))
        atheris.Fuzz()


def _format(name: str) -> tuple[Target, list[bytes]]:
    return next(target for target in FORMATS if target.name == name), seeds_of(name)


def _rpcs() -> tuple[Target, list[bytes]]:
    with atheris.instrument_imports(include=_SEEN):  # the server is large, and not always asked
        from tests.fuzz.calls import RPCS, Calls
        from tests.fuzz.requests import requests
    return Calls().target(), [data for rpc in RPCS for data in requests(rpc)]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
