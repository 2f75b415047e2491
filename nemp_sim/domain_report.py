"""The domain of validity in the reports of the workflows, and in their exit codes."""

from collections.abc import Sequence
from dataclasses import replace

from ase import Atoms

from nemp_sim.domain import partial
from nemp_sim.potential import Potential
from nemp_sim.report import Report

UNTRUSTED = 1  # exit code of a run that ended, and whose numbers are not to be trusted


def with_domain(report: Report, engine: object, final: Sequence[Atoms] | None) -> Report:
    """The report with the worst values of the run and a verdict on the structures behind it.

    The worst values come from every evaluation of the engine. The verdict is on ``final``, judged
    once more with uncertainties of the forces where the potential has them: what a relaxation
    passes through on its way does not count. It opens the report where something is outside,
    unless the policy of the engine is "ignore". Other engines than a Potential are not judged.

    Args:
        report: of the run.
        engine: what evaluated the structures.
        final: structures that the numbers of the report rest on; None: all that were evaluated.

    Raises:
        ExtrapolationError: something is outside and the policy of the engine is "raise".
    """
    if not isinstance(engine, Potential):
        return report
    watch, outside = engine.watch, 0
    if final is not None:
        quiet = watch.policy if watch.policy == "raise" else "ignore"
        judged = engine.evaluate(final, uncertainty=engine.n_members > 0, on_extrapolation=quiet)
        outside = sum(map(bool, judged.outside))
        findings = [f for found in judged.outside for f in found]
    else:
        outside = watch.n_outside
        findings = [f for f in watch.worst.values() if f.excess > 1]
    worst = {f.kind: f for f in sorted(findings, key=lambda f: f.excess)}  # the last of a kind
    domain = {**watch.summary(), "outside_at_end": outside, "policy": watch.policy}
    data = {**report.data, "domain": domain}
    if not outside:
        note = f"Domain of validity: {watch.verdict()}"
        return replace(report, data=data, notes=(*report.notes, note))
    said = "; ".join(map(str, worst.values()))
    unknown = partial(engine.domain.not_recorded)
    note = f"OUTSIDE what {engine.name} was trained on ({outside} structures): {said}{unknown}."
    if watch.policy == "ignore":
        return replace(report, data=data, notes=(*report.notes, note))
    verdict = f"OUTSIDE THE TRAINED DOMAIN, not to be trusted. {report.verdict}"
    return replace(report, data=data, verdict=verdict, notes=(note, *report.notes))


def is_outside(report: Report) -> bool:
    """Whether the report is on structures outside the domain, and the policy was not "ignore"."""
    domain = report.data.get("domain")
    return bool(domain and domain["outside_at_end"] and domain["policy"] != "ignore")
