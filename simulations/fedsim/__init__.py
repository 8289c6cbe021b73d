"""Many clients of one task on one machine, as they would be deployed, in time that is simulated.

`simulate` takes a `Scenario` to its end, in the `World` that it describes or in another; a
`Population` makes its clients when they are asked for. What they train, what the server sums and
what privacy costs is computed by the parts that devices and servers run.
"""

import importlib
import types
import typing

__all__ = [
    "Client",
    "Outcome",
    "Partition",
    "Population",
    "Result",
    "RoundRecord",
    "Scenario",
    "Source",
    "World",
    "own_models",
    "read_run",
    "scenario_with",
    "simulate",
]

if typing.TYPE_CHECKING:
    from fedsim.partition import Partition
    from fedsim.population import Client, Population
    from fedsim.records import Result, RoundRecord
    from fedsim.run.outcome import Outcome, simulate
    from fedsim.run.own_models import own_models
    from fedsim.run.reading import read_run
    from fedsim.scenario import Scenario
    from fedsim.sources import Source
    from fedsim.sweep.changes import scenario_with
    from fedsim.world import World
else:
    # Every worker process imports this package, and needs few of its parts: 0.3 s less of a start.
    _AT_FIRST_USE = types.MappingProxyType(
        {
            "Client": "fedsim.population",
            "Outcome": "fedsim.run.outcome",
            "Partition": "fedsim.partition",
            "Population": "fedsim.population",
            "Result": "fedsim.records",
            "RoundRecord": "fedsim.records",
            "Scenario": "fedsim.scenario",
            "Source": "fedsim.sources",
            "World": "fedsim.world",
            "own_models": "fedsim.run.own_models",
            "read_run": "fedsim.run.reading",
            "scenario_with": "fedsim.sweep.changes",
            "simulate": "fedsim.run.outcome",
        }
    )

    def __getattr__(name: str) -> object:
        """A public name whose first use loads the part that it is of (PEP 562)."""
        if name not in _AT_FIRST_USE:
            raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
        found = getattr(importlib.import_module(_AT_FIRST_USE[name]), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
