"""A task whose program is the device's own, so that a model of any size may be handed in for it."""

from __future__ import annotations

__all__ = ["own_program_task"]


def own_program_task(*, rows: int) -> str:
    """Its text, TOML, with `rows` + 1 rows of 1,000 parameters."""
    return f"""
task = {{ name = "own", seed = 1 }}
data = {{ dataset = "patients" }}
training = {{ program = "mine" }}
algorithm = {{ name = "fedavg" }}
secure_aggregation = {{ profile = "off" }}
rounds = {{ count = 2 }}
cohort = {{ goal = 1, minimum = 1 }}
model = {{ arrays = [{{ name = "w", shape = [{rows}, 1000] }}, {{ name = "b", shape = [1000] }}] }}
"""
