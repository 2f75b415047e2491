"""Table of all that depends on the length and the ordered pair of elements of an edge alone.

Quintic Hermite interpolation between knots with exact value, slope and curvature: the functions,
their slopes and curvatures are continuous, and forces are the exact derivative of the
tabulated energy. Knots are added until the error lies below the rounding of float32.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from nemp_sim.mlp import MLP, ResidualBlock
from nemp_sim.model import INNER_SWITCH, NEMP, PairFunctions

VALUE_ERROR = 2.0**-24  # largest error of a function, in units of the largest of its kind
SLOPE_ERROR = 2.0**-22  # likewise of a slope
FEWEST, MOST = 32, 1024  # intervals of a stretch
PARTS = (0.0, 0.125, 0.25, 0.5, 1.0)  # where the stretches end, of the way to the cutoff
MAX_BYTES = 256 * 2**20
CLOSEST = 0.02  # Å, the first knot at least: sinc loses its digits near zero
CHUNK = 4096  # distances evaluated at once

Function = Callable[[Tensor, Tensor], Tensor]  # distances, pairs → (…, columns)


class TabulationError(ValueError):
    """The functions of the pairs cannot be tabulated to float32 rounding within the limits."""


def hermite_basis(t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (…, 6) of f, f', f'' at t = 0 and then at t = 1; and their derivatives by t."""
    t2, u = t * t, 1 - t
    t3, u2 = t2 * t, u * u
    rise = t3 * (10 - t * (15 - 6 * t))
    slopes = (t - t3 * (6 - t * (8 - 3 * t)), -t3 * (4 - t * (7 - 3 * t)))
    value = [1 - rise, slopes[0], 0.5 * t2 * u2 * u, rise, slopes[1], 0.5 * t3 * u2]
    d_rise = 30 * t2 * u2
    d_slopes = (1 - t2 * (18 - t * (32 - 15 * t)), -t2 * (12 - t * (28 - 15 * t)))
    d_curves = (0.5 * t * u2 * (2 - 5 * t), 0.5 * t2 * u * (3 - 5 * t))
    slope = [-d_rise, d_slopes[0], d_curves[0], d_rise, d_slopes[1], d_curves[1]]
    return torch.stack(value, -1), torch.stack(slope, -1)


class PairTable:
    """``NEMP.pair_functions`` of a frozen network, interpolated; differentiable once.

    The knots of a pair are uniform in each of five stretches: from the inner radius below which
    the network is off to the one above which it is whole (empty without an inner switch), and
    from there to the cutoff in four, which end at an eighth, a quarter, half and all of the way:
    trained networks vary fastest at the shortest distances. Columns: h⁰ (2K), R_l ((P+1)K),
    R_ρ (K), V (3(P+1)K), f_c.

    Attributes:
        knots: (S² · rows, 3 · columns) value, h · slope and h² · curvature at each knot, h the
            distance of the knots; the rows of a pair stand together.
        grid: (S², 5, 2) first knot (Å) and 1/h (1/Å) of the stretches of each pair.
        intervals: number of intervals of each stretch.
        rows: knots of each pair, Σ (intervals + 1).
        value_error: largest error found between knots, over the largest function of its kind.
        slope_error: likewise of the slopes.
    """

    def __init__(self, model: NEMP, dtype: torch.dtype = torch.float32) -> None:
        """Tabulate ``model``, evaluated in float64, on its device.

        Raises:
            TabulationError: more knots or memory would be needed than is sensible.
        """
        config = model.config
        self.n_channels, self.n_orders = config.n_channels, config.pmax_l + 1
        function = _in_float64(model)
        device = model.species_mix.device
        radius = torch.zeros(len(config.elements) ** 2, dtype=torch.float64, device=device)
        if model.zbl is not None:
            radius = model.inner_radius.double()
        off, whole = ((share * radius).clamp(min=CLOSEST) for share in INNER_SWITCH)
        ends = [off] + [whole + (config.cutoff_angstrom - whole) * x for x in PARTS]
        sizes = _sizes(function, ends, self.kinds)
        self.intervals: list[int] = []
        parts, grid, self.value_error, self.slope_error = [], [], 0.0, 0.0
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            knots, value, slope = self._stretch(function, start, end, sizes)
            self.intervals.append(knots.shape[1] - 1)
            self.value_error = max(value, self.value_error)
            self.slope_error = max(slope, self.slope_error)
            parts.append(knots)
            grid.append(torch.stack([start, self.intervals[-1] / (end - start).clamp(min=1e-9)], 1))
        knots = torch.cat(parts, dim=1)  # (S², rows, 3, columns)
        self.rows = knots.shape[1]
        self.knots = knots.flatten(2).flatten(0, 1).to(dtype)
        self.grid = torch.stack(grid, dim=1).to(dtype)

    @property
    def kinds(self) -> list[int]:
        """Columns of each kind: h⁰, R_l, R_ρ, V, f_c."""
        k, p1 = self.n_channels, self.n_orders
        return [2 * k, p1 * k, k, 3 * p1 * k, 1]

    def _stretch(
        self, f: Function, start: Tensor, end: Tensor, sizes: Tensor
    ) -> tuple[Tensor, float, float]:
        """Knots (S², n+1, 3, columns) of a stretch and their errors of value and slope."""
        if bool((start == end).all()):
            return _knots(f, start, end, 1), 0.0, 0.0
        n = FEWEST
        while True:
            knots = _knots(f, start, end, n)
            value, slope = _errors(f, knots, start, end, self.kinds, sizes)
            if value <= VALUE_ERROR and slope <= SLOPE_ERROR:
                return knots, value, slope
            if n == MOST or 2 * 4 * knots.numel() > MAX_BYTES:
                raise TabulationError(
                    f"{n} intervals leave relative errors of {value:.1e} and of {slope:.1e} in the "
                    f"slopes, above the rounding of float32 ({VALUE_ERROR:.1e}, {SLOPE_ERROR:.1e})."
                )
            n *= 2

    def locate(self, d: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row of the knot below each distance, the place t ∈ [0, 1] after it, and 1/h."""
        start, per_angstrom = self.grid.index_select(0, pair).unbind(2)  # (E, 5)
        stretch = ((d[:, None] >= start).sum(1, keepdim=True) - 1).clamp(min=0)
        inverse_h = per_angstrom.gather(1, stretch)[:, 0]
        place = ((d - start.gather(1, stretch)[:, 0]) * inverse_h).clamp(min=0)
        n = torch.tensor(self.intervals, device=d.device)
        first = (n + 1).cumsum(0) - n - 1
        below = torch.minimum(place.long(), n[stretch[:, 0]] - 1)
        row = pair * self.rows + first[stretch[:, 0]] + below
        return row, (place - below).clamp(max=1), inverse_h

    def __call__(self, d: Tensor, pair: Tensor) -> PairFunctions:
        """Interpolated functions of distances d (E,), Å, and pairs (E,)."""
        columns, _ = _Interpolate.apply(d, pair, self)
        state, radial, rho, orbitals, cutoff = columns.split(self.kinds, dim=1)
        k, p1 = self.n_channels, self.n_orders
        return PairFunctions(
            cutoff[:, 0],
            state,
            torch.cat([radial, rho], dim=1).unflatten(1, (p1 + 1, k)),
            orbitals.unflatten(1, (3, p1, k)),
        )


class _Interpolate(torch.autograd.Function):
    """Values of all columns; the slopes come from the same products and wait for the backward."""

    @staticmethod
    def forward(d, pair, table):  # noqa: ANN001, ANN205 (torch's signature)
        row, t, inverse_h = table.locate(d, pair)
        value, slope = hermite_basis(t)
        weights = torch.stack([value, slope * inverse_h[:, None]], dim=1)  # (E, 2, 6)
        below = table.knots.index_select(0, row)
        above = table.knots.index_select(0, row + 1)
        knots = torch.cat([below, above], dim=1).unflatten(1, (6, -1))  # (E, 6, columns)
        both = torch.bmm(weights, knots)
        return both[:, 0].clone(), both[:, 1]

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ANN001, ANN205
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):  # noqa: ANN001, ANN205
        (slope,) = ctx.saved_tensors
        return (grad * slope).sum(1), None, None


def _in_float64(model: NEMP) -> Function:
    """All columns of the pair functions of a float64 copy of ``model``."""
    exact = copy.deepcopy(model).cast(torch.float64)
    for module in exact.modules():
        if isinstance(module, MLP | ResidualBlock):
            module.activation = _silu  # type: ignore[assignment]  # silu also takes inplace
    with torch.no_grad():
        code = exact.pair_code()

    def columns(d: Tensor, pair: Tensor) -> Tensor:
        f = exact.pair_functions(d, pair, code)
        rho, radial = f.radial[:, -1], f.radial[:, :-1].flatten(1)
        return torch.cat([f.state, radial, rho, f.orbitals.flatten(1), f.cutoff[:, None]], dim=1)

    return columns


def _silu(x: Tensor) -> Tensor:
    """SiLU in functions that torch differentiates forward twice."""
    return x * torch.sigmoid(x)


def _taylor(f: Function, d: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, slope and curvature of all columns at distances d (M,), each (M, columns)."""
    parts = []
    for some, which in zip(d.split(CHUNK), pair.split(CHUNK), strict=True):
        one = torch.ones_like(some)

        def first(x: Tensor, which: Tensor = which, one: Tensor = one) -> tuple[Tensor, Tensor]:
            value, slope, *_ = jvp(lambda y: f(y, which), (x,), (one,))
            return value, slope

        with warnings.catch_warnings():  # torch's forward mode uses what torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            (value, slope), (_, curvature), *_ = jvp(first, (some,), (one,))
        parts.append((value, slope, curvature))
    value, slope, curvature = (torch.cat(part) for part in zip(*parts, strict=True))
    return value, slope, curvature


def _places(start: Tensor, end: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at ``fractions`` (M,) of the stretches of S² pairs, and their pairs, (S²·M,)."""
    d = start[:, None] + (end - start)[:, None] * fractions.to(start.device)
    pair = torch.arange(len(start), device=start.device)[:, None].expand_as(d)
    return d.flatten(), pair.flatten()


@torch.no_grad()
def _knots(f: Function, start: Tensor, end: Tensor, n: int) -> Tensor:
    """Value, h · slope and h² · curvature at n + 1 knots of each pair, (S², n+1, 3, columns)."""
    fractions = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    value, slope, curvature = (
        part.unflatten(0, (len(start), n + 1))
        for part in _taylor(f, *_places(start, end, fractions))
    )
    h = ((end - start) / n)[:, None, None]
    return torch.stack([value, h * slope, h * h * curvature], dim=2)


@torch.no_grad()
def _sizes(f: Function, ends: list[Tensor], kinds: list[int]) -> Tensor:
    """Largest value and slope of each kind over all pairs, (2, kinds)."""
    fractions = torch.linspace(0, 1, FEWEST, dtype=torch.float64)
    stretches = zip(ends[:-1], ends[1:], strict=True)
    both = [_taylor(f, *_places(start, end, fractions))[:2] for start, end in stretches]
    return torch.stack(
        [
            torch.stack([x.abs().amax() for x in torch.cat(parts).split(kinds, -1)])
            for parts in zip(*both, strict=True)
        ]
    ).clamp(min=1e-30)


@torch.no_grad()
def _errors(
    f: Function, knots: Tensor, start: Tensor, end: Tensor, kinds: list[int], sizes: Tensor
) -> tuple[float, float]:
    """Largest errors of values and slopes between the knots, in units of ``sizes``."""
    n = knots.shape[1] - 1
    between = torch.tensor([0.25, 0.5], dtype=torch.float64, device=knots.device)
    fractions = ((torch.arange(n)[:, None] + between.cpu()) / n).flatten()
    d, pair = _places(start, end, fractions)
    want = [part.unflatten(0, (len(start), n, 2)) for part in _taylor(f, d, pair)[:2]]
    ends = torch.cat([knots[:, :-1], knots[:, 1:]], dim=2)  # (S², n, 6, columns)
    inverse_h = (n / (end - start).clamp(min=1e-9))[:, None, None, None]
    value, slope = hermite_basis(between)
    errors = []
    for got, exact, size in zip([value @ ends, slope @ ends * inverse_h], want, sizes, strict=True):
        off = [part.abs().amax() for part in (got - exact).split(kinds, -1)]
        errors.append(float((torch.stack(off) / size).max()))
    return errors[0], errors[1]
