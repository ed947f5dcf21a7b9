"""PPO's and GRPO's losses from the papers' equations by hand, and the divergences of on-policy distillation."""

import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Table, output

from jaxlm.core.types import LossContext
from jaxlm.objectives import estimators, on_policy
from jaxlm.objectives.reinforcement import GRPO, PPO, GRPOConfig, PPOConfig
from jaxlm.objectives.rollouts import averaged

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
LOG = jnp.log(jnp.asarray(PROBS, jnp.float32))
# Two completions of one prompt 0: "1 1", and "2". A row of weights begins where the completion's first token is predicted.
ROLLOUT = {
    "tokens": jnp.array([[0, 1, 1], [0, 2, 0]]),
    "targets": jnp.array([[1, 1, 0], [2, 0, 0]]),
    "weights": jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    "temperature": jnp.ones(2),
    "rewards": jnp.array([1.0, 0.0]),
}
REFERENCE = jnp.log(jnp.array([[0.2, 0.4, 0.4], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]]))


def grpo(**config):
    return GRPO(GRPOConfig(**config), Table(), reference=Table())


def loss(objective, params, batch):
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    out, weights = objective(params, ctx, batch), objective.weights(batch)
    return sum(c * out.sums[name] / weights[name] for name, c in objective.terms.items()), out


def prepared(objective, params, frozen, rollout, size):
    return objective.experience(rollout | objective.scores(params, frozen, rollout), size)


def experience(objective, table=LOG, rollout=ROLLOUT, size=2):
    return prepared(objective, {"table": table}, {"reference": {"table": REFERENCE}}, rollout, size)


def test_advantages_of_groups():
    """Rewards 1, 0, 0, 1 have mean 1/2 and sample deviation sqrt(1/3); equal ones say nothing."""
    found = estimators.group_advantages(jnp.array([1.0, 0, 0, 1, 7, 7, 7, 7]), 4, True)
    one = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    np.testing.assert_allclose(found, [one, -one, -one, one, 0, 0, 0, 0], **CLOSE)
    found = estimators.group_advantages(jnp.array([3.0, 0.0, 0.0]), 3, False)
    np.testing.assert_allclose(found, [2.0, -1.0, -1.0], **CLOSE)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [(1.0, 2, -2.0, 0), (1.5, 2, -2.4, 1), (1.5, -2, 3.0, 0), (0.5, 2, -1.0, 0), (0.5, -2, 1.6, 1)],
)
def test_the_clipped_policy_loss(ratio, advantage, expected, clipped):
    """Eq. 7: the worse of both, so a ratio that has gone too far counts where it went the wrong way."""
    found = estimators.clipped_policy_loss(jnp.log(ratio), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose(found, (expected, clipped), **CLOSE)


def test_estimators_of_the_kl():
    """p = 1/2, q = 1/4: log 2, and 1/2 - 1 + log 2. Over what is drawn from p both are the KL on average."""
    found = [estimators.kl(jnp.log(0.5), jnp.log(0.25), name) for name in ("k1", "k3")]
    np.testing.assert_allclose(found, [math.log(2), math.log(2) - 0.5], **CLOSE)
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.2, 0.6])
    for name in ("k1", "k3"):
        mean = (p * estimators.kl(jnp.log(p), jnp.log(q), name)).sum()
        np.testing.assert_allclose(mean, (p * np.log(p / q)).sum(), **CLOSE)


def test_generalised_advantages():
    """gamma 1/2, lambda 1/2, rewards 0 0 8, values 4 2 6: d = (-3, 1, 2), A = (-3 + 1.5/4, 1 + 2/4, 2); filling is none."""
    rewards = jnp.array([[0.0, 0, 0, 8, 0]])
    values = jnp.array([[9.0, 4, 2, 6, 9]])
    weights = jnp.array([[0.0, 1, 1, 1, 0]])
    found = estimators.gae(rewards, values, weights, 0.5, 0.5)
    np.testing.assert_allclose(found, [[0, -3 + 1.5 / 4, 1.5, 2, 0]], **CLOSE)


def test_the_clipped_value_loss():
    """Old value 1, return 3: 2 is bound to 1.2, whose error of 1.8 is greater than 1's; 0 is bound to 0.8, 3 > 2.2."""
    found = estimators.clipped_value_loss(jnp.array([2.0, 0.0]), 1.0, 3.0, 0.2)
    np.testing.assert_allclose(found, [1.8**2 / 2, 3.0**2 / 2], **CLOSE)


def test_grpo_by_hand():
    """Two completions, of two tokens and of one; probabilities have moved from 1/4, 0.8 and 1/4 to 1/2, 0.6 and 1/8."""
    objective = grpo(kl_coef=0.1)
    batch = experience(objective)
    one = 0.5 / (math.sqrt(0.5) + 1e-4)
    np.testing.assert_allclose(batch["advantages"], [[one, one, 0], [-one, 0, 0]], **CLOSE)
    np.testing.assert_allclose(batch["old_log_probs"][0, :2], np.log([0.25, 0.8]), **CLOSE)
    moved = jnp.log(jnp.array([[0.375, 0.5, 0.125], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6]]))
    found, out = loss(objective, {"table": moved}, batch)
    ratios = [
        1.2,
        0.75,
        0.8,
    ]  # 1/2 : 1/4 is 2, clipped; 0.6 : 0.8; 1/8 : 1/4 is clipped from below: -A counts
    back = np.array([0.4 / 0.5, 0.4 / 0.6, 0.4 / 0.125])  # reference over model
    k3 = back - 1 - np.log(back)
    first = -one * (ratios[0] + ratios[1]) / 2 + 0.1 * k3[:2].mean()
    second = one * ratios[2] + 0.1 * k3[2]
    np.testing.assert_allclose(found, (first + second) / 2, **CLOSE)
    np.testing.assert_allclose(out.report["clip_fraction"].total, 2.0)
    np.testing.assert_allclose(out.report["kl"].total, k3.sum(), rtol=1e-5)


def test_what_is_not_weighed_can_drift_as_far_as_it_likes():
    """exp(200) overflows: of a prompt's own token, which nothing holds in place, it must not reach the gradient."""
    batch = experience(grpo(kl_coef=0.1))
    batch["tokens"] = jnp.array([[0, 1, 0], [0, 0, 0]])
    moved = LOG.at[0, 0].set(-200.0)  # of the filling's targets, 0 behind a 0
    grads = jax.grad(lambda table: loss(grpo(kl_coef=0.1), {"table": table}, batch)[0])(moved)
    assert np.isfinite(grads).all()


def test_averages():
    """Lengths 2 and 1 of 3 places: by completions, by tokens, by a constant."""
    losses, weights = jnp.array([[2.0, 4, 9], [6, 9, 9]]), ROLLOUT["weights"]
    for average, expected in (("sequence", 4.5), ("token", 4.0), ("constant", 2.0)):
        own, total = averaged(weights, average)
        np.testing.assert_allclose((losses * own).sum() / total, expected, **CLOSE)


def test_before_an_update_grpo_is_the_plain_policy_gradient():
    """The ratio is 1, so the gradient is that of -A log p; and of the KL it is 0 where nothing has moved."""
    objective = GRPO(GRPOConfig(kl_coef=0.1), Table(), reference=Table())
    batch = prepared(objective, {"table": LOG}, {"reference": {"table": LOG}}, ROLLOUT, 2)
    one = 0.5 / (math.sqrt(0.5) + 1e-4)

    def plain(table):
        rows = jax.nn.log_softmax(table)
        return -0.5 * one * ((rows[0, 1] + rows[1, 1]) / 2 - rows[0, 2])

    found = jax.grad(lambda table: loss(objective, {"table": table}, batch)[0])(LOG)
    np.testing.assert_allclose(found, jax.grad(plain)(LOG), **CLOSE)


def test_the_kl_can_be_taken_off_the_rewards():
    objective = grpo(kl_coef=0.5, kl_in="reward", kl_estimator="k1", scale=False)
    assert "kl" not in objective.terms
    k1 = np.log([0.25 / 0.4, 0.8 / 0.4, 0.25 / 0.4])
    rewards = np.array([1 - 0.5 * (k1[0] + k1[1]), -0.5 * k1[2]])
    found = experience(objective)["advantages"]
    np.testing.assert_allclose(found[:, 0], rewards - rewards.mean(), **CLOSE)


def test_temperature_is_that_of_the_drawing():
    """At temperature 1/2 probabilities 1/2, 1/4, 1/4 are 2/3, 1/6, 1/6."""
    rollout = ROLLOUT | {"temperature": jnp.array([0.5, 1.0])}
    found = experience(grpo(), rollout=rollout)["old_log_probs"]
    np.testing.assert_allclose(found[:, 0], np.log([1 / 6, 1 / 4]), **CLOSE)


class Valued(Table):
    """Also a number for each token."""

    config = types.SimpleNamespace(value_head=True)

    @nn.compact
    def __call__(self, tokens, *, train=False):
        logits = self.param("table", nn.initializers.zeros, (3, 3))[tokens]
        values = self.param("values", nn.initializers.zeros, (3,))
        return output(logits).replace(aux={"value_BT": values[tokens]})


def ppo(**config):
    return PPO(PPOConfig(**config), Valued(), reference=Valued())


def test_ppo_by_hand():
    """The critic says 1/2 behind a 0 and 1/4 behind a 1. Before an update the policy's loss is minus the sum of advantages."""
    objective = ppo(gae_lambda=0.5, whiten=False, kl_coef=0.0, entropy_coef=0.01)
    params = {"table": LOG, "values": jnp.array([0.5, 0.25, 0.0])}
    batch = prepared(objective, params, {"reference": params}, ROLLOUT, 1)
    # d = (0 + 1/4 - 1/2, 1 - 1/4), A = (-1/4 + 3/8, 3/4); the other completion has reward 0: A = -1/2.
    np.testing.assert_allclose(batch["advantages"], [[0.125, 0.75, 0], [-0.5, 0, 0]], **CLOSE)
    np.testing.assert_allclose(batch["returns"], [[0.625, 1, 0], [0, 0, 0]], **CLOSE)
    assert objective.terms == {"policy": 1.0, "value": 0.1, "entropy": -0.01}
    found, out = loss(objective, params, batch)
    value = (0.125**2 + 0.75**2 + 0.5**2) / 2
    entropy = -(PROBS * np.log(PROBS)).sum(1)[[0, 1, 0]].sum()
    np.testing.assert_allclose(found, (-0.375 + 0.1 * value - 0.01 * entropy) / 3, **CLOSE)
    np.testing.assert_allclose(out.report["value_loss"].total, value, **CLOSE)


def test_ppo_takes_the_kl_off_every_token():
    objective = ppo(gae_lambda=1.0, whiten=False, kl_coef=0.5)
    params, other = ({"table": table, "values": jnp.zeros(3)} for table in (LOG, REFERENCE))
    batch = prepared(objective, params, {"reference": other}, ROLLOUT, 1)
    k1 = np.log([0.25 / 0.4, 0.8 / 0.4, 0.25 / 0.4])
    expected = [[1 - 0.5 * (k1[0] + k1[1]), 1 - 0.5 * k1[1], 0], [-0.5 * k1[2], 0, 0]]
    np.testing.assert_allclose(batch["advantages"], expected, **CLOSE)


def test_whitened_advantages():
    found = estimators.whitened(jnp.array([[1.0, 3.0, 9.0]]), jnp.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(found, [[-1, 1, 0]], **CLOSE)


def test_a_reward_model_is_read_at_the_last_token():
    """A 1 and a 2, which are the last targets too."""
    objective = GRPO(
        GRPOConfig(reward_model="judge"), Table(), reference=Table(), reward_model=Valued()
    )
    judge = {"table": LOG, "values": jnp.array([0.5, 0.25, 9.0])}
    found = objective.rewards({"reward_model": judge}, ROLLOUT)
    np.testing.assert_allclose(found, [1.25, 9.0], **CLOSE)


def test_divergences_by_hand():
    """P, the teacher's, is 1/2 and 1/2; Q is 1/4 and 3/4; the mixture of both halves 3/8 and 5/8."""
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = 0.5 * p + 0.5 * q

    def kl(a, b):
        return (a * np.log(a / b)).sum()

    expected = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jsd": 0.5 * kl(p, m) + 0.5 * kl(q, m),
    }
    for kind, value in expected.items():
        found = on_policy.divergence(jnp.log(q) + 3.0, jnp.log(p), kind, 0.5)
        np.testing.assert_allclose(found, value, **CLOSE)
    m = 0.1 * p + 0.9 * q
    found = on_policy.divergence(jnp.log(q), jnp.log(p), "jsd", 0.1)
    np.testing.assert_allclose(found, 0.1 * kl(p, m) + 0.9 * kl(q, m), **CLOSE)


def test_on_policy_distillation_is_a_mean_over_completions():
    config = on_policy.Config(teacher="t", divergence="forward_kl")
    objective = on_policy.OnPolicyDistillation(config, Table(), teacher=Table())
    batch = prepared(objective, {}, {}, ROLLOUT, 1)
    ctx = LossContext({"teacher": {"table": REFERENCE}}, {}, jnp.int32(0), jax.random.key(0))
    out = objective({"table": LOG}, ctx, batch)
    teacher = np.exp(REFERENCE)
    per_token = (teacher * np.log(teacher / PROBS)).sum(1)
    expected = ((per_token[0] + per_token[1]) / 2 + per_token[0]) / 2
    np.testing.assert_allclose(out.sums["forward_kl"] / 2, expected, **CLOSE)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: GRPOConfig(kl_estimator="k1"), "no gradient on average in a loss"),
        (lambda: GRPOConfig(average="mean"), "accepted are sequence, token, constant"),
        (lambda: PPO(PPOConfig(), Table(), reference=Table()), "model.value_head=True"),
        (lambda: experience(grpo(), size=1), "step.num_completions=1 must be at least 2"),
        (lambda: loss(grpo(), {"table": LOG}, ROLLOUT), 'section\\("step", "policy"\\)'),
        (lambda: on_policy.Config(beta=1.0), "forward_kl and reverse_kl"),
    ],
)
def test_what_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_every_coefficient_counts():
    params = {"table": jnp.log(jnp.array([[0.3, 0.6, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6]]))}
    batch = experience(grpo())
    before = float(loss(grpo(), params, batch)[0])
    for changed in ({"kl_coef": 0.5}, {"entropy_coef": 0.3}, {"average": "token"}, {"clip": 0.5}):
        assert float(loss(grpo(**changed), params, batch)[0]) != before, changed
