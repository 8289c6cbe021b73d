"""Derivatives, lanes, and recorded programs."""
