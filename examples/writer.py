"""One client of the demo, as an owner of data writes it: join once, state a policy, take part.

`python writer.py FOLDER`: the images are in FOLDER/digits.npz. The first time a join string is read
from standard input; killed and started again, the client goes on from FOLDER/state.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedclient import Client, Policy
from fedclient.policy import PrivacyRules
from fedcore.data import Dataset, load_npz


def main(folder: Path) -> None:
    """Takes part until the process is ended."""
    state = folder / "state"
    if (state / "identity").exists():
        client = Client.open(state)
    else:
        client = Client.join(sys.stdin.readline(), directory=state, name=folder.name)
    arrays = load_npz(folder / "digits.npz")
    policy = Policy(privacy=PrivacyRules(required=True, epsilon_ceiling=3.0, noise=("shares",)))
    with client:
        client.run(
            datasets={"digits": Dataset(arrays["x"], arrays["y"])},
            policy=policy,
            on_progress=lambda progress: print(progress, flush=True),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
