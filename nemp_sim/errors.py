"""Exceptions of the package: each message names what was got, what is wanted and the cure."""


class NempError(Exception):
    """Base of every error that a user of nemp_sim can cause."""


class InputError(NempError, ValueError):
    """An argument or an input file has a value that cannot be used."""


class UnknownElementError(InputError):
    """A structure holds an element for which the potential was not trained."""


class PotentialFileError(NempError):
    """A potential file is missing, damaged, foreign, or of a newer format."""


class EvaluationError(NempError, RuntimeError):
    """An evaluation could not be finished: not-a-number results or too little memory."""
