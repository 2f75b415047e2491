"""What to do where a structure leaves the domain of a potential, and the worst value of a run."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from nemp_sim.config import require
from nemp_sim.domain import Finding, Judgement, partial
from nemp_sim.errors import ExtrapolationError

POLICIES = ("warn", "raise", "ignore")
MOST_WARNINGS = 10  # of one run; further structures are counted
CURE = (
    "Take its energies and forces for a guess: compare with the reference method, or train on such "
    "structures."
)


class ExtrapolationWarning(UserWarning):
    """A structure lies outside the domain of the potential."""


class NoDomainWarning(UserWarning):
    """A potential file says nothing of what it was trained on, so that nothing can be judged."""


def check_policy(policy: str) -> str:
    """The policy itself.

    Raises:
        InputError: none of ``POLICIES``.
    """
    require(policy in POLICIES, "on_extrapolation", policy, "'warn', 'raise' or 'ignore'")
    return policy


class Watch:
    """Looks at every evaluation of a potential and remembers the worst of each kind.

    Attributes:
        policy: "warn" (once for each set of atoms), "raise", or "ignore".
        n_structures: structures seen so far.
        n_outside: of these, outside the domain.
        worst: the largest excess of each kind so far, inside or outside.
    """

    def __init__(self, name: str, not_recorded: Sequence[str] = (), policy: str = "warn") -> None:
        """Start a run.

        Raises:
            InputError: no such policy.
        """
        self.policy = check_policy(policy)
        self._name, self._not_recorded = name, tuple(not_recorded)
        self.reset()

    def reset(self) -> None:
        """Start a new run: nothing seen, nothing warned of."""
        self.n_structures = self.n_outside = 0
        self.worst: dict[str, Finding] = {}
        self._warned: set[tuple[object, ...]] = set()

    def see(
        self, judgement: Judgement, count: int, policy: str | None = None
    ) -> tuple[tuple[Finding, ...], ...]:
        """What is outside in each of ``count`` structures.

        Args:
            judgement: of the structures.
            count: their number.
            policy: overrides that of the watch.

        Raises:
            ExtrapolationError: something is outside and the policy is "raise".
        """
        policy = self.policy if policy is None else check_policy(policy)
        found: list[tuple[Finding, ...]] = [()] * count
        for index, kind in judgement.outside():
            found[index] = (*found[index], judgement.finding(index, kind))
        self.n_structures += count
        self.n_outside += sum(map(bool, found))
        for kind, values in judgement.worst.items():
            so_far = self.worst[kind].excess if kind in self.worst else 0.0
            if values.max(initial=0.0) > so_far:
                self.worst[kind] = judgement.finding(int(values.argmax()), kind)
        if policy != "ignore":
            for index, findings in enumerate(found):
                if findings:
                    self._tell(index, findings, policy)
        return tuple(found)

    def _tell(self, index: int, findings: tuple[Finding, ...], policy: str) -> None:
        said = "; ".join(map(str, findings))
        text = (
            f"structure {index} ({findings[0].formula}) is outside what {self._name} was trained "
            f"on: {said}. {CURE}"
        )
        if policy == "raise":
            raise ExtrapolationError(f"{text} on_extrapolation='warn' goes on.")
        keys = {(f.formula, f.kind, f.atoms) for f in findings}
        if keys <= self._warned or len(self._warned) >= MOST_WARNINGS:
            return
        self._warned |= keys
        last = len(self._warned) >= MOST_WARNINGS
        more = " Further ones are counted, not warned of." if last else ""
        warnings.warn(f"{text}{more}", ExtrapolationWarning, stacklevel=4)

    def verdict(self) -> str:
        """One sentence on the run so far."""
        if not self.n_outside:
            said = f"all {self.n_structures} structures are inside what {self._name} was trained on"
        else:
            worst = "; ".join(str(f) for f in self.worst.values() if f.excess > 1)
            said = (
                f"{self.n_outside} of {self.n_structures} structures are OUTSIDE what {self._name} "
                f"was trained on, at worst: {worst}"
            )
        return f"{said}{partial(self._not_recorded)}."

    def summary(self) -> Mapping[str, Any]:
        """The run so far in plain values: the worst of each kind with its atoms and threshold."""
        return {
            "structures": self.n_structures,
            "outside": self.n_outside,
            "worst": {
                kind: {
                    "value": f.value,
                    "threshold": f.threshold,
                    "unit": f.unit,
                    "atoms": [f"{s}{i}" for s, i in zip(f.symbols, f.atoms, strict=True)],
                    "structure": f.formula,
                }
                for kind, f in self.worst.items()
            },
            "not_recorded": list(self._not_recorded),
        }
