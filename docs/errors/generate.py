"""Writes `docs/errors.md` from the registry of errors, so that a code in a log leads to a remedy.

What an error means is its class's first sentence; causes and remedies stand in `causes.toml`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from fedcore.errors import FedcoreError, registry

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[1] / "errors.md"
_FAMILIES = {
    "FED-1000": "General",
    "FED-1101": "Arrays and programs",
    "FED-1201": "Data and files",
    "FED-1301": "Training",
    "FED-1400": "Secure aggregation",
    "FED-1500": "Privacy",
    "FED-1601": "Tasks and updates",
    "FED-1701": "Rounds",
    "FED-1801": "Messages",
    "FED-2100": "What a server refuses",
    "FED-2200": "What keeps a server from serving",
    "FED-2300": "Clients",
    "FED-2400": "Simulations",
}
_HEAD = """\
# Errors

Every error that a user can cause has a code that stays, says what happened and why, and names a
remedy. `--debug` adds the traceback. In Python all of them are in `fedcore.errors`, below
`FedcoreError`. What a driver of secure aggregation does about each of its errors stands in
[secure-aggregation.md](secure-aggregation.md), about those of privacy in [privacy.md](privacy.md).

This page is generated: `python docs/errors/generate.py`.
"""


def page() -> str:
    """The page as it should be. Raises: KeyError for an error without a cause."""
    causes = tomllib.loads((Path(__file__).parent / "causes.toml").read_text("utf-8"))
    parts = [_HEAD]
    for code, error in registry().items():
        if not error.__module__.startswith("fedcore."):
            continue
        if code in _FAMILIES:
            parts.append(f"## {_FAMILIES[code]}\n")
        parts.append(_entry(code, error, causes[code]))
    return "\n".join(parts)


def _entry(code: str, error: type[FedcoreError], known: dict[str, str]) -> str:
    meaning = (error.__doc__ or "").split("\n\n")[0].split("; `")[0].split(": a stable")[0]
    meaning = " ".join(meaning.split()).rstrip(".") + "."
    return (
        f'### <a id="{code}"></a>{code} `{error.__name__}`\n\n{meaning}\n\n'
        f"- Typical cause: {known['cause']}\n- Remedy: {known['remedy']}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
