"""What a server makes of a round's mean, and what clients do for it: one algorithm a file."""

from fedcore.federated.algorithms.algorithm import Algorithm, algorithm_of, rule_of
from fedcore.federated.algorithms.rule import ServerState

__all__ = ["Algorithm", "ServerState", "algorithm_of", "rule_of"]
