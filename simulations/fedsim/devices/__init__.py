"""Devices as they are simulated: how fast, how far away, when there, and how often lost.

What a device is follows from its client alone, never from who else takes part.
"""

from fedsim.devices.availability import NEVER, Availability, crowd
from fedsim.devices.profiles import DeviceProfile, Devices, Profiles
from fedsim.devices.spec import AvailabilitySpec, ClassSpec, DevicesSpec, DropoutSpec
from fedsim.devices.stages import Stage

__all__ = [
    "NEVER",
    "Availability",
    "AvailabilitySpec",
    "ClassSpec",
    "DeviceProfile",
    "Devices",
    "DevicesSpec",
    "DropoutSpec",
    "Profiles",
    "Stage",
    "crowd",
]
