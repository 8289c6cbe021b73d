"""CUDA kernels of our own, for what CuPy computes slowly, or in an order that varies."""
