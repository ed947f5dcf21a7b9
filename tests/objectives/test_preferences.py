"""DPO, IPO, KTO, ORPO and Bradley-Terry: a pair of short texts by hand, the papers' equations in plain numbers, what gets gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Bidirectional, Table

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext
from jaxlm.objectives import kto, preferences, reward

# Prompt 0; better completion 1 1, worse one 2 0 2. Every text's last token is read, with a target that weighs nothing.
PAIR = {
    "tokens": [[0, 1, 1, 0, 2, 0, 2, 0]],
    "targets": [[1, 1, 0, 2, 0, 2, 0, 0]],
    "weights": [[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]],
    "segment_ids": [[1, 1, 1, 2, 2, 2, 2, 0]],
}
PAIR = {name: jnp.asarray(values) for name, values in PAIR.items()}
UNIFORM = np.full((3, 3), 1 / 3)
# After 0: 1/2, 1/4, 1/4; after 1: 0.1, 0.8, 0.1; after 2: 0.2, 0.2, 0.6.
BETTER = math.log(0.25) + math.log(0.8)
WORSE = math.log(0.25) + math.log(0.2) + math.log(0.25)
H = (BETTER + 2 * math.log(3)) - (WORSE + 3 * math.log(3))
"""The margin against a reference for which every token is as likely."""


def params(probs):
    return {"table": jnp.log(jnp.asarray(probs, jnp.float32))}


def context(reference=UNIFORM):
    return LossContext({"reference": params(reference)}, {}, jnp.int32(0), jax.random.key(0))


def call(objective, batch=PAIR, probs=PROBS, reference=UNIFORM):
    out = objective(params(probs), context(reference), batch)
    report = {name: float(sums.total / sums.weight) for name, sums in out.report.items()}
    return {name: float(total) for name, total in out.sums.items()}, report


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def make(kind, config=None, **fields):
    config = kind.Config(**fields) if config is None else config
    return kind(config, Table(), Table()) if kind.others else kind(config, Table())


def test_dpo_by_hand():
    sums, report = call(make(preferences.DPO, beta=0.5))
    assert sums["preference"] == pytest.approx(-math.log(sigmoid(0.5 * H)), abs=1e-6)
    assert report["loss"] == pytest.approx(sums["preference"])
    assert report["accuracy"] == 1 and report["margin"] == pytest.approx(0.5 * H, abs=1e-6)
    assert report["reward_chosen"] == pytest.approx(0.5 * (BETTER + 2 * math.log(3)), abs=1e-6)
    # KL to the uniform: log 3 less the entropy, after 0, 1, 0, 2, 0
    entropy = -(PROBS * np.log(PROBS)).sum(1)
    assert report["kl"] == pytest.approx(math.log(3) - entropy[[0, 1, 0, 2, 0]].mean(), abs=1e-6)


def test_dpo_with_the_better_texts_likelihood():
    objective = make(preferences.DPO, beta=0.5, nll_coef=0.3)
    sums, _ = call(objective)
    assert objective.terms == {"preference": 1.0, "nll": 0.3}
    assert sums["nll"] == pytest.approx(-BETTER, abs=1e-6)
    assert objective.weights(PAIR) == {"preference": 1, "nll": 2}


def test_ipo_by_hand():
    sums, _ = call(make(preferences.IPO, beta=0.5))
    assert sums["preference"] == pytest.approx((H - 1) ** 2, abs=1e-6)
    per_token = (BETTER / 2 + math.log(3)) - (WORSE / 3 + math.log(3))
    sums, _ = call(make(preferences.IPO, beta=0.5, per_token=True))
    assert sums["preference"] == pytest.approx((per_token - 1) ** 2, abs=1e-6)


def test_orpo_by_hand():
    objective = make(preferences.ORPO, odds_coef=0.25)
    sums, report = call(objective)
    better, worse = (0.25 * 0.8) ** 0.5, (0.25 * 0.2 * 0.25) ** (1 / 3)
    ratio = (better / (1 - better)) / (worse / (1 - worse))
    assert sums["preference"] == pytest.approx(-math.log(ratio / (1 + ratio)), abs=1e-6)
    assert sums["nll"] == pytest.approx(-BETTER, abs=1e-6)
    assert objective.terms == {"preference": 0.25, "nll": 1.0}
    assert objective.weights(PAIR) == {"preference": 1, "nll": 2}
    assert report["reward_rejected"] == pytest.approx(math.log(worse), abs=1e-6)


def test_log_odds_of_what_is_nearly_certain_or_nearly_impossible():
    def odds(p):
        return math.log(p / (1 - p))

    likely, unlikely = jnp.float32(math.log(1 - 1e-5)), jnp.float32(math.log(1e-6))
    found = preferences.log_odds_ratio(likely, unlikely)
    assert float(found) == pytest.approx(odds(1 - 1e-5) - odds(1e-6), rel=1e-6)
    grads = jax.grad(preferences.log_odds_ratio, (0, 1))(jnp.float32(0.0), jnp.float32(-200.0))
    assert np.isfinite(grads).all()


# Three verdicts: 0 -> 1 (good), 1 -> 1 0 (bad), 2 0 -> 2 (good).
VERDICTS = {
    "tokens": [[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [2, 0, 2, 0, 0]],
    "targets": [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 2, 0, 0, 0]],
    "weights": [[1.0, 0, 0, 0, 0], [1.0, 1.0, 0, 0, 0], [0, 1.0, 0, 0, 0]],
    "segment_ids": [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]],
    "positions": [[0, 1, 0, 0, 0], [0, 1, 2, 0, 0], [0, 1, 2, 0, 0]],
    "desirable": [1, 0, 1],
}
VERDICTS = {name: jnp.asarray(values) for name, values in VERDICTS.items()}


def test_prompts_with_the_next_rows_completion():
    """0 -> 1 0, 1 -> 2, 2 0 -> 1."""
    other = kto.mismatched(VERDICTS)
    assert other["tokens"].tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert other["targets"].tolist() == [[1, 0, 0, 0, 0], [2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert other["weights"].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert other["segment_ids"].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    cut = {name: values[:, :2] if values.ndim > 1 else values for name, values in VERDICTS.items()}
    assert kto.mismatched(cut)["weights"].tolist() == [[1, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("policy, reference", [(PROBS, UNIFORM), (UNIFORM, PROBS)])
def test_kto_by_hand(policy, reference):
    """Of one of them the mean log-ratio of the mismatched pairs is negative: the estimate is 0 then."""
    config = kto.KTOConfig(beta=0.5, desirable=0.8, undesirable=1.5)
    ratio = np.log(policy) - np.log(reference)
    mine = [ratio[0, 1], ratio[1, 1] + ratio[1, 0], ratio[0, 2]]
    others = [ratio[0, 1] + ratio[1, 0], ratio[1, 2], ratio[0, 1]]
    z = max(0.0, np.mean(others))
    losses = [
        0.8 * (1 - sigmoid(0.5 * (mine[0] - z))),
        1.5 * (1 - sigmoid(0.5 * (z - mine[1]))),
        0.8 * (1 - sigmoid(0.5 * (mine[2] - z))),
    ]
    sums, report = call(make(kto.KTO, config), VERDICTS, policy, reference)
    assert sums["preference"] == pytest.approx(sum(losses), abs=1e-6)
    assert report["kl_estimate"] == pytest.approx(z, abs=1e-6)
    assert report["reward_rejected"] == pytest.approx(0.5 * mine[1], abs=1e-6)
    assert make(kto.KTO, config).coupled


def test_kto_of_one_text_has_no_other_to_compare_with():
    alone = {name: values[:1] for name, values in VERDICTS.items()}
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2"):
        call(make(kto.KTO), alone)


def test_the_estimate_of_the_kl_has_no_gradient():
    """So the gradient is that of the losses at a z that stands still."""
    objective, ctx = make(kto.KTO, beta=0.5), context(PROBS)
    z = objective.divergence(params(UNIFORM), ctx, VERDICTS)
    assert z > 0
    good = VERDICTS["desirable"].astype(jnp.float32)

    def by_hand(table):
        logs = jax.nn.log_softmax(table) - jnp.log(jnp.asarray(PROBS))
        ratios = jnp.stack([logs[0, 1], logs[1, 1] + logs[1, 0], logs[0, 2]])
        return kto.kto(ratios, good, z, objective.config).sum()

    table = params(UNIFORM)["table"]
    found = jax.grad(lambda t: objective({"table": t}, ctx, VERDICTS).sums["preference"])(table)
    np.testing.assert_allclose(found, jax.grad(by_hand)(table), atol=1e-6)


class Valued(Table):
    """Rewards are tokens' ids times 10, plus their place."""

    value_head = True

    def apply(self, variables, tokens, **inputs):
        output = super().apply(variables, tokens, **inputs)
        values = 10.0 * tokens + jnp.arange(tokens.shape[1])[None]
        return output.replace(aux={"value_BT": values.astype(jnp.float32)})

    @property
    def config(self):
        return self


def test_a_reward_is_the_value_at_the_last_token():
    """At places 2 and 6: 12 and 26."""
    objective = reward.Reward(reward.Config(), Valued())
    sums, report = call(objective)
    assert report["reward_chosen"] == 12 and report["reward_rejected"] == 26
    assert sums["preference"] == pytest.approx(-math.log(sigmoid(12 - 26)), rel=1e-6)
    assert report["accuracy"] == 0


def test_rows_without_both_texts_count_for_nothing():
    """As filling rows are."""
    batch = {name: jnp.concatenate([values, values]) for name, values in PAIR.items()}
    for filled in (0.0 * batch["weights"][1], batch["weights"][1] * (jnp.arange(8) < 3)):
        half = batch | {"weights": batch["weights"].at[1].set(filled)}
        objective = make(preferences.DPO)
        assert objective.weights(half)["preference"] == 1
        assert call(objective, half)[0] == pytest.approx(call(objective)[0], rel=1e-6)


@pytest.mark.parametrize("kind", [preferences.DPO, preferences.IPO, preferences.ORPO])
def test_gradients_by_finite_differences(kind):
    objective = make(kind)

    def loss(table):
        out = objective({"table": table}, context(), PAIR)
        return sum(objective.terms[name] * out.sums[name] for name in objective.terms)

    table = params(PROBS)["table"] + 0.3
    grads = jax.grad(loss)(table)
    for place in ((0, 1), (1, 1), (2, 0), (0, 2)):
        up, down = loss(table.at[place].add(1e-2)), loss(table.at[place].add(-1e-2))
        assert float(grads[place]) == pytest.approx(float(up - down) / 2e-2, abs=2e-3)


@pytest.mark.parametrize("kind", [preferences.DPO, preferences.IPO, preferences.ORPO, kto.KTO])
def test_what_can_be_wrong_is_named(kind):
    name = "odds_coef" if kind is preferences.ORPO else "beta"
    with pytest.raises(ValueError, match=f"objective.{name}=0.0 must be positive"):
        kind.Config(**{name: 0.0})
    with pytest.raises(
        ValueError, match=f'objective.kind="{kind.kind}" needs a model that is causal'
    ):
        kind(kind.Config(), Bidirectional())


def test_a_reward_model_needs_a_value_head():
    class Plain(Table):
        config = NeuralOutput

    with pytest.raises(ValueError, match="set model.value_head=True"):
        reward.Reward(reward.Config(), Plain())
