"""How fast fedcore is: one file a question, each figure beside a peer or a limit of the same run.

`python -m benchmarks list` names the benchmarks, `python -m benchmarks run NAME...` runs them.
"""
