"""Exceptions of the package: each message names what was got, what is wanted and the cure."""


class NempError(Exception):
    """Base of every error that a user of nemp_sim can cause.

    Attributes:
        exit_code: status of the ``nemp`` command that ends with it.
    """

    exit_code = 2


class InputError(NempError, ValueError):
    """An argument or an input file has a value that cannot be used."""


class UnknownElementError(InputError):
    """A structure holds an element for which the potential was not trained."""


class PotentialFileError(NempError):
    """A potential file is missing, damaged, foreign, or of a newer format."""


class EvaluationError(NempError, RuntimeError):
    """An evaluation could not be finished: not-a-number results or too little memory."""


class ExtrapolationError(EvaluationError):
    """A structure lies outside the domain of the potential, and on_extrapolation is "raise"."""


class ServerGoneError(NempError, ConnectionError):
    """No server could be reached, or it closed the connection without EXIT."""

    exit_code = 3


class IPIProtocolError(NempError):
    """The server sent something that is not i-PI's protocol."""
