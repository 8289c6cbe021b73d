"""What the benchmarks of the server share: a server to be measured, and clients that load it."""
