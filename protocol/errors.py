"""Every exception this package raises: two families, one question, whose fault was it?  (README section 11.)"""


class ProtocolError(Exception):
    """Never raised itself; catch it to mean "this conversation is over"."""


class LocalProtocolError(ProtocolError):
    """We tried to say something the protocol does not allow here: our bug."""


class RemoteProtocolError(ProtocolError):
    """The peer said something it may not say: close the stream and score it."""


class MalformedMessage(RemoteProtocolError):
    """The bytes are not a message of the kind that was due."""


class UnknownCriticalField(MalformedMessage):
    """The message asks for something newer than we are; what it asks cannot be ignored."""


class BadSignature(RemoteProtocolError):
    """The envelope's signature, key or domain is not what it claims to be."""
