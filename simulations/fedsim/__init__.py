"""Many clients of one task on one machine, as they would be deployed, in time that is simulated.

A `Population` makes its clients when they are asked for. What they train, what the server sums and
what privacy costs is computed by the parts that devices and servers run.
"""

from fedsim.partition import Partition
from fedsim.population import Client, Population
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["Client", "Partition", "Population", "Scenario", "World"]
