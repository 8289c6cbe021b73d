"""The README's task is one: it resolves, and says what the README says of it."""

from __future__ import annotations

import re
from pathlib import Path

from fedcore.federated import Task


def test_the_task_of_the_readme_promises_what_it_says(root: Path) -> None:
    readme = (root / "README.md").read_text("utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    task = Task.from_toml(text).resolved()
    assert task.plan is not None and task.secure_aggregation is not None
    assert task.plan.epsilon == 3.0
    assert Task.from_canonical(task.canonical) == task


def test_every_command_of_the_readme_and_the_guide_is_one(root: Path) -> None:
    verbs = {
        "audit": "tail export verify signer",
        "ca": "init issue revoke list",
        "client": "join run status doctor model",
        "db": "upgrade check backup restore",
        "model": "list export diff",
        "privacy": "plan show verify export audit",
        "round": "list show",
        "server": "start status drain doctor",
        "task": "submit list show watch cancel",
        "token": "create clients revoke",
    }
    for name in ("README.md", "docs/first-federation.md", "docs/threat-model.md", "docs/errors.md"):
        named = re.findall(
            r"(?:`|\$ |^)fed ([a-z]+) ([a-z]+)", (root / name).read_text("utf-8"), re.M
        )
        assert [pair for pair in named if pair[1] not in verbs.get(pair[0], "").split()] == [], name
