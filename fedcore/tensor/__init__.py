"""Tensors, the primitive record, and the operations on NumPy and CuPy arrays."""
