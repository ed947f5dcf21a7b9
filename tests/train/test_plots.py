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


def test_figures_stand_side_by_side(tmp_path):
    """Of every figure that says what is learned, validation's beside training's; rows without any draw nothing."""
    path = epath.Path(tmp_path / "plots" / "metrics.png")
    speed = {"split": "train", "loss": 2.0, "lr": 1e-3, "tokens_per_second": 9.0, "grad_norm": 1.0}
    assert not plots.plot_figures(path, [speed | {"step": 1}], "plain")
    assert not path.exists()
    rows = [speed | {"step": step, "reward": step / 10, "kl": None} for step in range(5)]
    val = {"step": 4, "split": "val", "val_reward": 0.5, "val_reward_stderr": 0.1, "val_loss": 2.0}
    assert plots._curves([*rows, val], "train", "") == {"reward": [(n, n / 10) for n in range(5)]}
    assert plots._curves([*rows, val], "val", "val_") == {"reward": [(4, 0.5)]}
    assert plots.plot_figures(path, [*rows, val], "rewarded")
    assert path.exists()
