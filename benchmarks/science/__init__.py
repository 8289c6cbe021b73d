"""What papers found of federated learning, found again: scenarios, and what benchmarks share."""
