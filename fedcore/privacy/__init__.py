"""Differential privacy: exact integer noise, honest accounting, and a ledger that fails closed."""
