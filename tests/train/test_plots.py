"""The plot is a readable file whatever was logged, and its smoothing has the right numbers."""

import numpy as np
import pytest
from etils import epath

from jaxlm.train import plots


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": None}], [{"step": 1, "loss": 2.0}]])
def test_plot_of_almost_nothing(tmp_path, rows):
    path = epath.Path(tmp_path / "plots" / "loss.png")
    plots.plot_loss(path, rows, "empty")
    assert path.exists()


def test_smoothing_by_hand():
    np.testing.assert_allclose(plots._smoothed([1.0, 3.0]), [1.0, 3.0])  # short: as it is
    smooth = plots._smoothed([1.0] * 50 + [3.0] * 50)  # keep = 1/2
    assert smooth[49] == pytest.approx(1.0)
    assert smooth[50] == pytest.approx(2.0, abs=1e-6)
    assert smooth[51] == pytest.approx(2.5, abs=1e-6)
