"""What both ends of a connection must agree on besides the messages: signatures, refusals, limits.

`envelope` says what a signature covers, `failures` how an error travels as a status, `joining` what
an operator hands to a client, `transfer` how bytes are cut, `channels` how connections behave and
`versions` who may speak with whom. Nothing here opens a connection.
"""

__all__: list[str] = []
