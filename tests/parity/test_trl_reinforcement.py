"""GRPO's loss and the divergence of on-policy distillation against trl's own code, whose models are replaced by the numbers.

trl has no PPO any more; its cases by hand are in tests/objectives/test_reinforcement.py.
"""

import collections
from unittest import mock

import pytest

pytest.importorskip("trl")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from jaxlm.objectives import estimators, on_policy  # noqa: E402
from jaxlm.objectives.rollouts import averaged  # noqa: E402

pytestmark = pytest.mark.slow  # importing trl takes longer than all of it
LENGTHS = (7, 2, 4, 1)


def numbers():
    """Log-probabilities now, before and of the reference, advantages and the mask of four completions."""
    rng = np.random.default_rng(0)
    now = -rng.exponential(1.0, (4, 7))
    before, reference = (now + 0.3 * rng.standard_normal((4, 7)) for _ in range(2))
    mask = (np.arange(7)[None] < np.array(LENGTHS)[:, None]).astype(np.float32)
    return now, before, reference, rng.standard_normal(4), mask


@pytest.mark.parametrize(
    ("loss_type", "average"), [("grpo", "sequence"), ("bnpo", "token"), ("dr_grpo", "constant")]
)
def test_grpo(loss_type, average):
    from trl import GRPOTrainer

    now, before, reference, advantages, mask = numbers()
    tensors = [torch.tensor(one, dtype=torch.float64) for one in (now, before, reference, mask)]
    made = mock.MagicMock()
    made._get_per_token_logps_and_entropies = lambda *a, **k: (tensors[0], tensors[0], None)
    made._metrics = {"train": collections.defaultdict(list), "eval": collections.defaultdict(list)}
    made.accelerator.gather = lambda x: x
    settings = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
                "beta": 0.1, "loss_type": loss_type, "epsilon_low": 0.2, "epsilon_high": 0.2, "use_vllm": False,
                "max_completion_length": 7, "current_gradient_accumulation_steps": 1, "_entropy_bonus_enabled": False,
                "aux_loss_enabled": False}  # fmt: skip
    for name, value in settings.items():
        setattr(made, name, value)
    made.args.use_bias_correction_kl, made.args.delta = False, None
    ids = torch.zeros(4, 7, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": tensors[3],
              "advantages": torch.tensor(advantages), "old_per_token_logps": tensors[1],
              "ref_per_token_logps": tensors[2]}  # fmt: skip
    expected = GRPOTrainer._compute_loss(made, None, inputs)

    policy, _ = estimators.clipped_policy_loss(
        jnp.asarray(now - before), jnp.asarray(np.repeat(advantages[:, None], 7, 1)), 0.2
    )
    losses = policy + 0.1 * estimators.kl(jnp.asarray(now), jnp.asarray(reference), "k3")
    own, total = averaged(jnp.asarray(mask), average)
    np.testing.assert_allclose(jnp.sum(losses * own) / total, float(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "beta"), [("forward_kl", 0.0), ("reverse_kl", 1.0), ("jsd", 0.5), ("jsd", 0.1)]
)
def test_divergence(kind, beta):
    from trl.experimental.gkd import GKDTrainer

    rng = np.random.default_rng(1)
    student, teacher = (rng.standard_normal((3, 5, 11)).astype(np.float32) for _ in range(2))
    expected = GKDTrainer.generalized_jsd_loss(
        torch.tensor(student), torch.tensor(teacher), beta=beta, reduction="sum"
    )
    found = on_policy.divergence(jnp.asarray(student), jnp.asarray(teacher), kind, beta)
    np.testing.assert_allclose(found.sum(), float(expected), rtol=1e-5)
