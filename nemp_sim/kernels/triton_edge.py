"""Triton functions: geometry of a tile of edges, harmonics and their slopes, the table of pairs.

Edges beyond the end of a tile are put far outside the cutoff, where every function is zero.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(1000.0)  # Å, each component of an edge that is not there
STRETCHES = tl.constexpr(5)  # of the grid of PairTable


@triton.jit
def edge_vector(vector_ptr, e, mask):
    """Unit vector x, y, z and length d = √(r² + ε) of edges e."""
    x = tl.load(vector_ptr + 3 * e, mask=mask, other=FAR)
    y = tl.load(vector_ptr + 3 * e + 1, mask=mask, other=FAR)
    z = tl.load(vector_ptr + 3 * e + 2, mask=mask, other=FAR)
    d = tl.sqrt(x * x + y * y + z * z + 1e-8)
    return x / d, y / d, z / d, d


@triton.jit
def vector_grad(x, y, z, d, gx, gy, gz, gd):
    """Gradient of r from those of the unit vector and of the length."""
    along = gd - (gx * x + gy * y + gz * z) / d
    return gx / d + along * x, gy / d + along * y, gz / d + along * z


@triton.jit
def locate(grid_ptr, pair, d, ROWS: tl.constexpr):
    """Row of the knot below, place t after it and 1/h, as ``PairTable.locate``."""
    place = grid_ptr + pair * (4 * STRETCHES)
    start = tl.load(place)
    inverse_h = tl.load(place + 1)
    first = tl.load(place + 2)
    last = tl.load(place + 3)
    for stretch in tl.static_range(1, STRETCHES):
        next_start = tl.load(place + 4 * stretch)
        beyond = d >= next_start
        start = tl.where(beyond, next_start, start)
        inverse_h = tl.where(beyond, tl.load(place + 4 * stretch + 1), inverse_h)
        first = tl.where(beyond, tl.load(place + 4 * stretch + 2), first)
        last = tl.where(beyond, tl.load(place + 4 * stretch + 3), last)
    t = tl.maximum((d - start) * inverse_h, 0.0)
    below = tl.minimum(tl.floor(t), last)
    t = tl.minimum(t - below, 1.0)
    row = pair * ROWS + (first + below).to(tl.int32)
    return row, t, inverse_h


@triton.jit
def basis(t):
    """Quintic Hermite weights of value, slope, curvature at both knots."""
    t2 = t * t
    t3 = t2 * t
    u = 1.0 - t
    u2 = u * u
    rise = t3 * (10.0 - t * (15.0 - 6.0 * t))
    left = t - t3 * (6.0 - t * (8.0 - 3.0 * t))
    right = -t3 * (4.0 - t * (7.0 - 3.0 * t))
    return 1.0 - rise, left, 0.5 * t2 * u2 * u, rise, right, 0.5 * t3 * u2


@triton.jit
def basis_slope(t, inverse_h):
    """Slopes of ``basis`` by the distance."""
    t2 = t * t
    u = 1.0 - t
    u2 = u * u
    rise = 30.0 * t2 * u2
    left = 1.0 - t2 * (18.0 - t * (32.0 - 15.0 * t))
    right = -t2 * (12.0 - t * (28.0 - 15.0 * t))
    curve_left = 0.5 * t * u2 * (2.0 - 5.0 * t)
    curve_right = 0.5 * t2 * u * (3.0 - 5.0 * t)
    h = inverse_h
    return -rise * h, left * h, curve_left * h, rise * h, right * h, curve_right * h


@triton.jit
def knot(table_ptr, row, column, part, COLUMNS: tl.constexpr):
    """Part 0 … 5 of the columns at the knots below and above."""
    return tl.load(table_ptr + row[:, None].to(tl.int64) * (3 * COLUMNS) + part * COLUMNS + column)


@triton.jit
def interpolate(table_ptr, row, weights, column, COLUMNS: tl.constexpr):
    """Columns (edges, K) of the table."""
    out = weights[0][:, None] * knot(table_ptr, row, column, 0, COLUMNS)
    for part in tl.static_range(1, 6):
        out += weights[part][:, None] * knot(table_ptr, row, column, part, COLUMNS)
    return out


@triton.jit
def interpolate_both(table_ptr, row, weights, slopes, column, COLUMNS: tl.constexpr):
    """Columns (edges, K) of the table and their slopes."""
    f = knot(table_ptr, row, column, 0, COLUMNS)
    out = weights[0][:, None] * f
    slope = slopes[0][:, None] * f
    for part in tl.static_range(1, 6):
        f = knot(table_ptr, row, column, part, COLUMNS)
        out += weights[part][:, None] * f
        slope += slopes[part][:, None] * f
    return out, slope


@triton.jit
def interpolate_one(table_ptr, row, weights):
    """One function (edges,) of a table with a single column."""
    place = table_ptr + row * 3
    out = weights[0] * tl.load(place)
    for part in tl.static_range(1, 6):
        out += weights[part] * tl.load(place + part)
    return out


@triton.jit
def harmonics(x, y, z, L: tl.constexpr, EPSILON: tl.constexpr):
    """Y_lm of l ≤ L ≤ 3, in the convention of ``angular.py``.

    EPSILON is that of the published norm √(Σ y² + ε), zero in the smooth form.
    """
    c0: tl.constexpr = (1.0 + 12.566370614359172 * EPSILON) ** -0.5
    out = (tl.zeros_like(x) + c0,)
    if L >= 1:
        c1: tl.constexpr = (3.0 / (1.0 + 4.1887902047863905 * EPSILON)) ** 0.5
        out = out + (c1 * y, c1 * z, c1 * x)
    if L >= 2:
        c2: tl.constexpr = (15.0 / (1.0 + 2.5132741228718345 * EPSILON)) ** 0.5
        c20: tl.constexpr = c2 * 0.28867513459481287
        out = out + (c2 * x * y, c2 * y * z, c20 * (2.0 * z * z - x * x - y * y))
        out = out + (c2 * x * z, 0.5 * c2 * (x * x - y * y))
    if L >= 3:
        c3: tl.constexpr = (7.0 / (1.0 + 1.7951958020513104 * EPSILON)) ** 0.5
        c33: tl.constexpr = c3 * 0.7905694150420949
        c32: tl.constexpr = c3 * 3.872983346207417
        c31: tl.constexpr = c3 * 0.6123724356957945
        xx_yy = x * x - y * y
        ring = 4.0 * z * z - x * x - y * y
        out = out + (c33 * y * (3.0 * x * x - y * y), c32 * x * y * z, c31 * y * ring)
        out = out + (0.5 * c3 * z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y), c31 * x * ring)
        out = out + (0.5 * c32 * z * xx_yy, c33 * x * (x * x - 3.0 * y * y))
    return out


@triton.jit
def harmonics_back(x, y, z, g, L: tl.constexpr, EPSILON: tl.constexpr):
    """Gradient of x, y, z from those of Y_lm, ``g``."""
    gx = tl.zeros_like(x)
    gy = tl.zeros_like(x)
    gz = tl.zeros_like(x)
    if L >= 1:
        c1: tl.constexpr = (3.0 / (1.0 + 4.1887902047863905 * EPSILON)) ** 0.5
        gx += c1 * g[3]
        gy += c1 * g[1]
        gz += c1 * g[2]
    if L >= 2:
        c2: tl.constexpr = (15.0 / (1.0 + 2.5132741228718345 * EPSILON)) ** 0.5
        c20: tl.constexpr = c2 * 0.5773502691896257
        gx += c2 * (y * g[4] + z * g[7] + x * g[8]) - c20 * x * g[6]
        gy += c2 * (x * g[4] + z * g[5] - y * g[8]) - c20 * y * g[6]
        gz += c2 * (y * g[5] + x * g[7]) + 2.0 * c20 * z * g[6]
    if L >= 3:
        c3: tl.constexpr = (7.0 / (1.0 + 1.7951958020513104 * EPSILON)) ** 0.5
        c33: tl.constexpr = c3 * 0.7905694150420949
        c32: tl.constexpr = c3 * 3.872983346207417
        c31: tl.constexpr = c3 * 0.6123724356957945
        xx_yy = x * x - y * y
        ring = 4.0 * z * z - x * x - y * y
        gx += c33 * (6.0 * x * y * g[9] + 3.0 * xx_yy * g[15])
        gy += c33 * (3.0 * xx_yy * g[9] - 6.0 * x * y * g[15])
        gx += c32 * (y * z * g[10] + x * z * g[14])
        gy += c32 * (x * z * g[10] - y * z * g[14])
        gz += c32 * (x * y * g[10] + 0.5 * xx_yy * g[14])
        gx += c31 * (ring * g[13] - 2.0 * x * (y * g[11] + x * g[13]))
        gy += c31 * (ring * g[11] - 2.0 * y * (y * g[11] + x * g[13]))
        gz += c31 * 8.0 * z * (y * g[11] + x * g[13])
        gx += -3.0 * c3 * x * z * g[12]
        gy += -3.0 * c3 * y * z * g[12]
        gz += 1.5 * c3 * (2.0 * z * z - x * x - y * y) * g[12]
    return gx, gy, gz


@triton.jit
def repulsion(zbl_ptr, pair, d):
    """Half of the ZBL energy of each edge, as ``ZBL``, and its slope."""
    place = zbl_ptr + pair * 3
    charge = tl.load(place)
    s = tl.load(place + 1)
    inverse_cutoff = tl.load(place + 2)
    a = 0.18175 * tl.exp(-3.19980 * s * d)
    b = 0.50986 * tl.exp(-0.94229 * s * d)
    c = 0.28022 * tl.exp(-0.40290 * s * d)
    e = 0.02817 * tl.exp(-0.20162 * s * d)
    phi = a + b + c + e
    phi_slope = -s * (3.19980 * a + 0.94229 * b + 0.40290 * c + 0.20162 * e)
    x = tl.minimum(d * inverse_cutoff, 1.0)
    x2 = x * x
    x5 = x2 * x2 * x
    envelope = 1.0 - x5 * x * (28.0 - x * (48.0 - x * 21.0))
    envelope_slope = -168.0 * x5 * (1.0 - x) * (1.0 - x) * inverse_cutoff
    value = charge / d * phi * envelope
    slope = charge / d * (phi_slope * envelope + phi * envelope_slope - phi * envelope / d)
    return value, slope
