"""Report of adsorption energies."""

from collections.abc import Mapping, Sequence

from ase import Atoms

from nemp_sim.mode_files import conditions, mode_table, remarks
from nemp_sim.report import Quantity, Report, plus_minus
from nemp_sim.surfaces.adsorbates import FORMS
from nemp_sim.surfaces.adsorption import Minimum
from nemp_sim.surfaces.energies import BOUND, Energies, Found, bound_of
from nemp_sim.surfaces.slabs import layers_from_below
from nemp_sim.vibrations import Vibrations


def adsorption_report(  # noqa: PLR0913 (what the report is of)
    title: str,
    slab: Atoms,
    found: Found,
    max_std_eV: float,
    notes: Sequence[str],
    gas_modes: Mapping[str, Vibrations] | None = None,
) -> Report:
    """The report, without provenance; ``data["trusted"]`` says whether all of it can be used.

    Args:
        title: what is adsorbed on what.
        slab: the clean slab.
        found: every structure with its energies.
        max_std_eV: largest accepted standard deviation of an adsorption energy.
        notes: how the slab was made.
        gas_modes: vibrations of the gas molecules, where zero-point energies are wanted.
    """
    gas_modes = gas_modes or {}
    unconverged = [f"{m.adsorbate} from {s}" for m, _ in found for s in _lost(m, "not converged")]
    unsure = [
        f"{m.adsorbate} {m.site} ({e.std_eV:.2f} eV)"
        for m, e in found
        if m.state in BOUND and e.std_eV is not None and e.std_eV > max_std_eV
    ]
    remarks_of_run = [*notes, *_definitions(found), *_conditions(found, gas_modes)]
    remarks_of_run += [*_fates(found), *_mode_remarks(found)]
    verdict = _best(found)
    if unsure:
        verdict = f"UNCERTAIN: above {max_std_eV} eV for {', '.join(unsure)}. {verdict}"
    if unconverged:
        verdict = f"NOT CONVERGED: {', '.join(unconverged)}. Give more --steps. {verdict}"
    names = dict.fromkeys(m.adsorbate for m, _ in found)
    lost = [n for n in names if not any(m.adsorbate == n and m.state in BOUND for m, _ in found)]
    n_top = len(layers_from_below(slab)[-1])
    sections = {"Structures": _table(found)}
    for minimum, energy in found:
        if energy.modes is not None:
            heading = f"Vibrations of {minimum.adsorbate} at {minimum.site} ({minimum.state})"
            sections[heading] = mode_table(energy.modes)
    for name, modes in gas_modes.items():
        sections[f"Vibrations of {name} in the gas phase"] = mode_table(modes)
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
            "adsorption.extxyz": "the clean slab, then all structures in the order of the table",
            "adsorption.png": "adsorption energies by site, eV",
            "sites.png": "where the structures are, from above",
        },
        sections=sections,
        data={
            "trusted": not unconverged and not unsure and not lost,
            "minima": [_plain(m, e, found) for m, e in found],
            "gas": {
                name: {
                    "zero_point_eV": modes.zero_point_energy_eV,
                    "wavenumbers_cm1": modes.wavenumbers_cm1,
                }
                for name, modes in gas_modes.items()
            },
        },
    )


def _lost(minimum: Minimum, state: str) -> tuple[str, ...]:
    return minimum.starts if minimum.state == state else ()


def _best(found: Found) -> str:
    parts = []
    for name in dict.fromkeys(m.adsorbate for m, _ in found):
        bound = bound_of(found, name)
        if not bound:
            parts.append(f"{name}: no bound minimum")
            continue
        minimum, energy = bound[0]
        value = plus_minus(energy.adsorption_eV, energy.std_eV, "+.3f")
        told = f"{name}: {minimum.site}, {value} eV"
        if energy.corrected_eV is not None:
            told += f" ({energy.corrected_eV:+.3f} with zero-point energies)"
        for other, its in (pair for pair in bound[1:] if not pair[1].n_imaginary):
            told += f", {other.site} {plus_minus(*its.above(energy))} eV above it"
            break
        parts.append(told)
    return "Most stable: " + "; ".join(parts) + "."


def _definitions(found: Found) -> list[str]:
    notes = []
    for name in dict.fromkeys(m.adsorbate for m, _ in found):
        terms = "".join(f" {'−' if n > 0 else '+'} {abs(n):g} E({g})" for g, n in _gas(name))
        notes.append(f"E_ads({name}) = E(slab + {name}) − E(slab){terms}; negative: bound.")
    return notes


def _gas(name: str) -> list[tuple[str, float]]:
    return list(FORMS[name].gas.items())


def _conditions(found: Found, gas_modes: Mapping[str, Vibrations]) -> list[str]:
    """How the zero-point energies were made, and whether they change the order."""
    modes = next((e.modes for _, e in found if e.modes is not None), None)
    if modes is None:
        return []
    notes = [
        f"Vibrations of the adsorbate: {conditions(modes)}. ΔZPE = ½ Σ ħω of the adsorbate − "
        "Σ ν ½ Σ ħω of the gas molecules, imaginary modes left out."
    ]
    for name, of_gas in gas_modes.items():
        values = ", ".join(f"{value:.0f}" for value in of_gas.wavenumbers_cm1)
        zero = of_gas.zero_point_energy_eV
        told = f"{values} cm⁻¹, zero-point energy {zero:.4f} eV; {conditions(of_gas)}"
        notes.append(f"{name} in the gas phase: {told}.")
    for name in dict.fromkeys(m.adsorbate for m, _ in found):
        known = [p for p in bound_of(found, name) if p[1].corrected_eV is not None]
        lowest = min(known, key=lambda pair: pair[1].corrected_eV or 0.0, default=None)
        if lowest is not None and lowest is not known[0]:
            notes.append(f"With zero-point energies {name} is lowest at {lowest[0].site}.")
    return notes


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
    """Every structure; zero-point energies where they were computed."""
    zero = any(e.zero_point_eV is not None for _, e in found)
    heads = ["E_ads eV", "±", "above the lowest eV", "±"]
    heads += ["ΔZPE eV", "E_ads + ΔZPE eV"] if zero else []
    heads += ["height Å", "d(metal) Å"]
    lines = [
        f"| adsorbate | started from | state | site | {' | '.join(heads)} | bonds Å | domain |",
        f"|---|---|---|---{'|---:' * len(heads)}|---|---|",
    ]
    for m, e in found:
        bonds = "; ".join(
            f"{p} {', '.join(f'{v:.3f}' for v in values)}" for p, values in m.bond_lengths_A.items()
        )
        values = [f"{e.adsorption_eV:+.3f}", _shown(e.std_eV)]
        values += [_shown(value) for value in _above_lowest(m, e, found)]
        values += [_shown(v, "+.3f") for v in (e.zero_point_eV, e.corrected_eV)] if zero else []
        if m.state not in BOUND:
            values = ["—"] * len(values)
        n_imaginary = e.n_imaginary
        plural = "s" if n_imaginary > 1 else ""
        state = f"{m.state}, {n_imaginary} imaginary mode{plural}" if n_imaginary else m.state
        site = m.site if m.offset_A < 0.3 else f"{m.site} ({m.offset_A:.1f} Å beside)"
        values += [f"{m.height_A:.2f}", f"{m.metal_distance_A:.2f}"]
        cells = [m.adsorbate, ", ".join(m.starts), state, site, *values, bonds, _domain(e)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float | None, form: str = ".3f") -> str:
    return "—" if value is None else f"{value:{form}}"


def _above_lowest(
    minimum: Minimum, energy: Energies, found: Found
) -> tuple[float | None, float | None]:
    """How far a bound structure lies above the lowest of its adsorbate, eV, and the ± of that."""
    if minimum.state not in BOUND:
        return None, None
    return energy.above(bound_of(found, minimum.adsorbate)[0][1])


def _domain(energy: Energies) -> str:
    """Whether a structure is inside what the potential was trained on, or why not."""
    if energy.outside is None:
        return "—"
    return f"OUTSIDE: {'; '.join(map(str, energy.outside))}" if energy.outside else "inside"


def _plain(minimum: Minimum, energy: Energies, found: Found) -> dict:
    names = ("adsorbate", "starts", "state", "site", "offset_A", "height_A", "metal_distance_A")
    values = {name: getattr(minimum, name) for name in names}
    values |= {"bond_lengths_A": minimum.bond_lengths_A, "energy_eV": minimum.energy_eV}
    numbers = {
        "adsorption_eV": energy.adsorption_eV,
        "std_eV": energy.std_eV,
        "zero_point_eV": energy.zero_point_eV,
        "adsorption_zpe_eV": energy.corrected_eV,
    }
    values |= {key: n if minimum.state in BOUND else None for key, n in numbers.items()}
    above = _above_lowest(minimum, energy, found)
    values |= dict(zip(("above_lowest_eV", "above_lowest_std_eV"), above, strict=True))
    values["domain"] = _domain(energy)
    if energy.modes is not None:
        values["wavenumbers_cm1"] = energy.modes.wavenumbers_cm1
    return values
