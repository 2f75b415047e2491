"""One line of a table of checks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: what is checked.
        subject: pair, element, crystal or structure.
        measured: value with its unit.
        wanted: condition, with its unit.
        passed: whether the condition holds.
    """

    name: str
    subject: str
    measured: str
    wanted: str
    passed: bool

    @property
    def line(self) -> str:
        """The line as it is printed."""
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name:22} {self.subject:24} {self.measured:34} {self.wanted}"
