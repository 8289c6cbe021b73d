"""The client of a federation: it joins, trains on data that stay where they are, and may refuse.

from fedclient import Client, Policy

client = Client.join("fed1.…", directory="state", name="writer-03")   # or Client.open("state")
client.run(datasets={"digits": dataset}, policy=Policy.load("policy.toml"), on_progress=print)
"""

from fedclient.client import Client
from fedclient.policy import Policy
from fedclient.progress import Energy, Outcome, Progress, Stage, Summary

__all__ = ["Client", "Energy", "Outcome", "Policy", "Progress", "Stage", "Summary"]
