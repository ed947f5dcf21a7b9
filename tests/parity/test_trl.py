"""DPO, IPO, KTO and ORPO of plain log-probabilities against trl's own trainers, whose models are replaced by the numbers."""

import collections
import types
from unittest import mock

import pytest

pytest.importorskip("trl")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from jaxlm.objectives import kto, preferences  # noqa: E402

B, T = 5, 7
MASK = torch.ones(2 * B, T + 1, dtype=torch.long)
MASK[:, 0] = 0
MASK[B:, 5:] = 0  # worse texts are shorter


def per_token(seed, mask=MASK):
    drawn = torch.randn(len(mask), T, generator=torch.Generator().manual_seed(seed)).abs()
    return -drawn * mask[:, 1:]


def trainer(**settings):
    """Whatever a trainer's loss asks for besides the numbers."""
    made = mock.MagicMock()
    made.model.training = True
    made.accelerator.gather_for_metrics = made.accelerator.gather = lambda x: x
    made.accelerator.device = "cpu"
    made._metrics = {"train": collections.defaultdict(list)}
    made._total_train_tokens, made._tp_size = 0, 1
    made.aux_loss_enabled, made.precompute_ref_logps = False, True
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def outputs(log_probs):
    zeros = torch.zeros_like(log_probs)
    return lambda **_: types.SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_pairs(loss_type):
    from trl.trainer.dpo_trainer import DPOTrainer

    mine, theirs = per_token(0), per_token(1)
    made = trainer(
        loss_types=[loss_type], loss_weights=[1.0], beta=0.3, ld_alpha=None, label_smoothing=0.0,
        f_divergence_type="reverse_kl", use_weighting=False,
    )  # fmt: skip
    chosen, rejected = theirs.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros(2 * B, T + 1, dtype=torch.long), "attention_mask": MASK,
        "completion_mask": MASK, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    expected = DPOTrainer._compute_loss(made, outputs(mine), inputs, False)
    ratios = (mine - theirs).sum(1)
    if loss_type == "ipo":
        ratios = ratios / MASK.sum(1)
    better, worse = (jnp.asarray(one.numpy()) for one in ratios.chunk(2))
    losses = {"sigmoid": preferences.dpo, "ipo": preferences.ipo}[loss_type](better - worse, 0.3)
    np.testing.assert_allclose(losses.mean(), expected.numpy(), rtol=1e-6)


def test_kto():
    from trl.trainer.kto_trainer import KTOTrainer

    mine, theirs, mismatched = per_token(0), per_token(1), per_token(2)
    good = torch.tensor([1, 0, 0, 1, 1, 0, 0, 1, 0, 0])
    made = trainer(
        beta=0.3, loss_type="kto", calculate_KL=True, desirable_weight=0.8, undesirable_weight=1.5
    )
    made._compute_kl_logps = lambda *_: mismatched.sum(1)
    inputs = {
        "input_ids": torch.zeros(2 * B, T + 1, dtype=torch.long), "attention_mask": MASK, "completion_mask": MASK,
        "label": good, "ref_logps": theirs.sum(1), "ref_KL_logps": mismatched.sum(1) - 0.7,
    }  # fmt: skip
    expected = KTOTrainer._compute_loss(made, outputs(mine), inputs, False)
    config = kto.KTOConfig(beta=0.3, desirable=0.8, undesirable=1.5)
    rewards = jnp.asarray((mine - theirs).sum(1).numpy())
    found = kto.kto(rewards, jnp.asarray(good.numpy(), jnp.float32), jnp.float32(0.7), config)
    np.testing.assert_allclose(found.mean(), expected.numpy(), rtol=1e-6)


def test_orpo():
    from trl.experimental.orpo import ORPOTrainer

    better, worse = (per_token(0).sum(1) / MASK.sum(1)).chunk(2)
    made = trainer(beta=1.0)
    expected, *_ = ORPOTrainer.odds_ratio_loss(made, better, worse)
    found = preferences.log_odds_ratio(*(jnp.asarray(one.numpy()) for one in (better, worse)))
    np.testing.assert_allclose(found - jnp.logaddexp(0.0, found), expected.numpy(), rtol=1e-5)
