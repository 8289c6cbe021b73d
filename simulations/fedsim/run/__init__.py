"""A run of the simulator: its loop, what it records, and the folder that it leaves behind."""
