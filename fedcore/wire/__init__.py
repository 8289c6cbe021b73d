"""What both ends of a connection must agree on besides the messages: signatures, refusals, limits.

`envelope` says what a signature covers, `failures` how an error travels as a status, `joining` what
an operator hands to a client, `transfer` how bytes are cut, `channels` how connections behave,
`versions` who may speak with whom. Only `handshake` opens connections, to find out what is wrong.
"""

__all__: list[str] = []
