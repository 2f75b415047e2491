"""A path over several barriers taken apart into its elementary steps."""

from ase import Atoms

from nemp_sim.errors import InputError
from nemp_sim.reactions.ends import check_ends
from nemp_sim.reactions.neb import BandSettings, NEBResult, minima_on_the_way, run_neb
from nemp_sim.relax import Engine, relax
from nemp_sim.together import run_together


def elementary_steps(engine: Engine, band: NEBResult, settings: BandSettings) -> list[NEBResult]:
    """A band for each step between neighbouring minima of a path, all bands in one batch.

    The minima on the way are relaxed together; one that falls into a neighbour is left out. A path
    without minima on the way gives no bands.

    Args:
        engine: evaluates the structures.
        band: the path as a whole.
        settings: of each band; ``n_images`` for each.

    Raises:
        EvaluationError: energies or forces that are not finite.
    """
    inner = minima_on_the_way(band.energies_eV)
    if not inner:
        return []
    fmax, steps = settings.fmax_eV_per_A, settings.steps
    relaxed = relax(engine, [band.images[i] for i in inner], fmax, steps).structures
    stops = [band.images[0]]
    for atoms in (*relaxed, band.images[-1]):
        if _differ(stops[-1], atoms):
            stops.append(atoms)
    stops[-1] = band.images[-1]
    if len(stops) < 3:
        return []
    pairs = list(zip(stops, stops[1:], strict=False))
    jobs = [lambda e, pair=pair: run_neb(e, pair[0], pair[1], settings) for pair in pairs]
    return run_together(engine, jobs)


def _differ(one: Atoms, other: Atoms) -> bool:
    try:
        check_ends(one, other)
    except InputError:
        return False
    return True
