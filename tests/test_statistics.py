import numpy as np
import pytest

from nemp_sim.statistics import Sample


@pytest.mark.parametrize("chunks", [[1000], [1] * 100, [7, 0, 13, 300, 1, 64]])
def test_a_sample_is_every_so_manieth_row(chunks):
    sample, series = Sample(50), np.arange(2 * sum(chunks)).reshape(-1, 2)
    start = 0
    for count in chunks:
        sample.add(series[start : start + count])
        start += count
    assert sample.every & (sample.every - 1) == 0
    np.testing.assert_array_equal(sample.rows(), series[:: sample.every])
    assert len(sample.rows()) <= 50 < 2 * len(sample.rows()) + 1 or sample.every == 1


def test_a_short_series_is_kept_whole():
    sample = Sample(50)
    sample.add(np.arange(50))
    assert sample.every == 1 and len(sample.rows()) == 50
