"""What could keep a server from running well, looked at one by one before it is started.

What `fed server start` would refuse is an error here, and found by the same code where that changes
nothing. So is what would not end a start and harm a federation all the same.
"""

from fedserver.doctor.examination import examine
from fedserver.doctor.finding import Finding

__all__ = ["Finding", "examine"]
