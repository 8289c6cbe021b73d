"""A socket that listens, or the reason why there is none and what to do about it."""

from __future__ import annotations

import errno
import socket

from fedcore.errors import ServerError

__all__ = ["listening"]

_FIXES = {
    errno.EADDRINUSE: "stop what listens there, or choose another port",
    errno.EACCES: "choose a port from 1024 on, or let the process have lower ones",
}
_NOT_HERE = 'name an address of this machine, or "0.0.0.0" for all that it has'


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port; port 0: any that is free. Raises: ServerError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:  # also of a name that is not known
        raise ServerError(
            f"the server cannot listen on {f'[{host}]' if ':' in host else host}:{port}",
            why=(error.strerror or str(error)).lower(),
            fix=_FIXES.get(error.errno or 0, _NOT_HERE),
        ) from None
