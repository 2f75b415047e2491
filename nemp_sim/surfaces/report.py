"""Report of adsorption energies."""

from collections.abc import Sequence
from dataclasses import dataclass

from ase import Atoms

from nemp_sim.domain import Finding
from nemp_sim.mode_files import mode_table, remarks
from nemp_sim.report import Quantity, Report
from nemp_sim.surfaces.adsorbates import FORMS
from nemp_sim.surfaces.adsorption import Minimum
from nemp_sim.surfaces.slabs import layers_from_below
from nemp_sim.vibrations import Vibrations

BOUND = ("adsorbed", "absorbed")


@dataclass(frozen=True)
class Energies:
    """Energies of one minimum.

    Attributes:
        adsorption_eV: E(slab with adsorbate) − E(slab) − Σ ν E(gas), without zero-point energy.
        std_eV: its predicted standard deviation; None without an ensemble.
        zero_point_eV: zero-point energy of the adsorbate minus that of the gas; None: not computed.
        modes: vibrations of the adsorbate, the metal held; None likewise.
        outside: where the structure leaves the domain of the potential; None: not judged.
    """

    adsorption_eV: float
    std_eV: float | None
    zero_point_eV: float | None
    modes: Vibrations | None
    outside: tuple[Finding, ...] | None = None


Found = Sequence[tuple[Minimum, Energies]]


def adsorption_report(
    title: str, slab: Atoms, found: Found, max_std_eV: float, notes: Sequence[str]
) -> Report:
    """The report, without provenance; ``data["trusted"]`` says whether all of it can be used."""
    unconverged = [f"{m.adsorbate} from {s}" for m, _ in found for s in _lost(m, "not converged")]
    unsure = [
        f"{m.adsorbate} {m.site} ({e.std_eV:.2f} eV)"
        for m, e in found
        if m.state in BOUND and e.std_eV is not None and e.std_eV > max_std_eV
    ]
    remarks_of_run = [*notes, *_definitions(found), *_fates(found), *_mode_remarks(found)]
    verdict = _best(found)
    if unsure:
        verdict = f"UNCERTAIN: above {max_std_eV} eV for {', '.join(unsure)}. {verdict}"
    if unconverged:
        verdict = f"NOT CONVERGED: {', '.join(unconverged)}. Give more --steps. {verdict}"
    names = dict.fromkeys(m.adsorbate for m, _ in found)
    lost = [n for n in names if not any(m.adsorbate == n and m.state in BOUND for m, _ in found)]
    n_top = len(layers_from_below(slab)[-1])
    sections = {"Minima": _table(found)}
    for minimum, energy in found:
        if energy.modes is not None:
            heading = f"Vibrations of {minimum.adsorbate} at {minimum.site} ({minimum.state})"
            sections[heading] = mode_table(energy.modes)
    return Report(
        title=f"Adsorption: {title}",
        verdict=verdict,
        quantities=(
            Quantity("n_minima", "Different structures after relaxation", len(found)),
            Quantity("n_candidates", "Candidates", sum(len(m.starts) for m, _ in found)),
            Quantity("coverage_ML", "Coverage, adsorbates for each metal atom on top", 1 / n_top),
            Quantity("max_std_eV", "Largest accepted standard deviation", max_std_eV, "eV"),
        ),
        notes=tuple(remarks_of_run),
        files={
            "adsorption.extxyz": "the clean slab, then all minima in the order of the table",
            "adsorption.png": "adsorption energies by site, eV",
            "sites.png": "where the minima are, from above",
        },
        sections=sections,
        data={
            "trusted": not unconverged and not unsure and not lost,
            "minima": [_plain(m, e) for m, e in found],
        },
    )


def energy_of(pair: tuple[Minimum, Energies]) -> float:
    """Adsorption energy, eV: what minima are ordered by."""
    return pair[1].adsorption_eV


def _lost(minimum: Minimum, state: str) -> tuple[str, ...]:
    return minimum.starts if minimum.state == state else ()


def _best(found: Found) -> str:
    parts = []
    for name in dict.fromkeys(m.adsorbate for m, _ in found):
        bound = [p for p in found if p[0].adsorbate == name and p[0].state in BOUND]
        if not bound:
            parts.append(f"{name}: no bound minimum")
            continue
        minimum, energy = min(bound, key=energy_of)
        spread = "" if energy.std_eV is None else f" ± {energy.std_eV:.3f}"
        parts.append(f"{name}: {minimum.site}, {energy.adsorption_eV:+.3f}{spread} eV")
    return "Most stable: " + "; ".join(parts) + "."


def _definitions(found: Found) -> list[str]:
    notes = []
    for name in dict.fromkeys(m.adsorbate for m, _ in found):
        terms = "".join(f" {'−' if n > 0 else '+'} {abs(n):g} E({g})" for g, n in _gas(name))
        notes.append(f"E_ads({name}) = E(slab + {name}) − E(slab){terms}; negative: bound.")
    return notes


def _gas(name: str) -> list[tuple[str, float]]:
    return list(FORMS[name].gas.items())


def _fates(found: Found) -> list[str]:
    words = {
        "desorbed": "left the surface",
        "dissociated": "fell apart",
        "rearranged": "took other bonds",
        "surface changed": "moved metal atoms from their places",
    }
    return [
        f"{m.adsorbate} from {', '.join(m.starts)} {words[m.state]}: no adsorption energy."
        for m, _ in found
        if m.state in words
    ]


def _mode_remarks(found: Found) -> list[str]:
    notes = []
    for minimum, energy in found:
        if energy.modes is not None:
            notes += remarks(energy.modes, f"{minimum.adsorbate} at {minimum.site}")
    return notes


def _table(found: Found) -> str:
    lines = [
        "| adsorbate | started from | state | site | E_ads eV | ± | ΔZPE eV | height Å | "
        "d(metal) Å | bonds Å | domain |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for m, e in found:
        bonds = "; ".join(
            f"{p} {', '.join(f'{v:.3f}' for v in values)}" for p, values in m.bond_lengths_A.items()
        )
        values = (e.adsorption_eV, 0), (e.std_eV, 1), (e.zero_point_eV, 0)
        energy, std, zpe = (
            "—" if v is None or m.state not in BOUND else f"{v:+.3f}"[plus:] for v, plus in values
        )
        n_imaginary = 0 if e.modes is None else e.modes.n_imaginary
        plural = "s" if n_imaginary > 1 else ""
        state = f"{m.state}, {n_imaginary} imaginary mode{plural}" if n_imaginary else m.state
        site = m.site if m.offset_A < 0.3 else f"{m.site} ({m.offset_A:.1f} Å beside)"
        lines.append(
            f"| {m.adsorbate} | {', '.join(m.starts)} | {state} | {site} | {energy} | {std} | "
            f"{zpe} | {m.height_A:.2f} | {m.metal_distance_A:.2f} | {bonds} | {_domain(e)} |"
        )
    return "\n".join(lines)


def _domain(energy: Energies) -> str:
    """Whether a structure is inside what the potential was trained on, or why not."""
    if energy.outside is None:
        return "—"
    return f"OUTSIDE: {'; '.join(map(str, energy.outside))}" if energy.outside else "inside"


def _plain(minimum: Minimum, energy: Energies) -> dict:
    names = ("adsorbate", "starts", "state", "site", "offset_A", "height_A", "metal_distance_A")
    values = {name: getattr(minimum, name) for name in names}
    values |= {"bond_lengths_A": minimum.bond_lengths_A, "energy_eV": minimum.energy_eV}
    for name in ("adsorption_eV", "std_eV", "zero_point_eV"):
        values[name] = getattr(energy, name) if minimum.state in BOUND else None
    values["domain"] = _domain(energy)
    if energy.modes is not None:
        values["wavenumbers_cm1"] = energy.modes.wavenumbers_cm1
    return values
