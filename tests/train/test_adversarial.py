"""Two players in one step: who learns when, that neither moves the other, and what is refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import randomness
from jaxlm.models.gan import GAN, GANConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.objectives import adversarial as losses
from jaxlm.objectives import causal_lm
from jaxlm.train import optim, parallel
from jaxlm.train.steps.adversarial import SHOWN, Adversarial, Config
from jaxlm.train.tuning import partial

MODEL = GANConfig(
    vocab_size=5,
    vocab_multiple=1,
    num_layers=1,
    d_model=8,
    discriminator_width=4,
    num_filters=4,
    filter_widths=(1, 2),
)
PLAIN = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}
PHASES = {"pretrain_fraction": 0.1, "discriminator_fraction": 0.1}  # a step each, of ten


def make_step(objective=None, num_steps=10, optimizer=None, **config):
    module = GAN(MODEL)
    own = optim.Config(**{"learning_rate": 1e-2} | PLAIN | (optimizer or {}))
    sections = {"generator": own, "discriminator": own}
    goal = losses.Adversarial(objective or losses.Config(), module)
    how = Config(**PHASES | config)
    return Adversarial(how, module, goal, None, None, 1, optim=sections, num_steps=num_steps)


def make_batch(rows=4, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 5, (rows, 7)).astype(np.int32)
    weights = np.ones((rows, 6), np.float32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def init(step):
    return nn.unbox(jax.jit(step.init)(jax.random.key(0), make_batch()))


def same(left, right):
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )  # fmt: skip


POLICY = losses.Config(generator="policy")
LINEAR = {"schedule": "linear", "min_lr_ratio": 0.0}
AVERAGED = {"ema_decay": 0.75, "generator_rate": 0.5, "discriminator_updates": 2}
STEPS = {
    "gumbel": make_step(optimizer=LINEAR, **AVERAGED),
    "policy": make_step(objective=POLICY, num_rollouts=2, rollout_every=2),
}


@functools.cache
def compiled(name):
    """One program for all tests: compiling is what they spend their time on."""
    return jax.jit(STEPS[name].step)


@functools.cache
def first_state(name):
    return init(STEPS[name])


pytestmark = pytest.mark.usefixtures("quick_compiling")


@pytest.mark.parametrize("name", STEPS)
def test_each_phase_moves_the_players_that_it_is_for_and_nothing_else(name):
    """Parameters and optimizer of the other one are bit for bit what they were; one program runs all phases."""
    run, state = compiled(name), first_state(name)
    for moving in (("generator",), ("discriminator",), ("generator", "discriminator")):
        after, metrics = run(state, make_batch())
        assert bool(metrics["finite"])
        for player in ("generator", "discriminator"):
            assert same(state.params[player], after.params[player]) == (player not in moving)
            assert same(state.opt_state[player], after.opt_state[player]) == (player not in moving)
        assert np.isfinite(metrics["discriminator_loss"]) == ("discriminator" in moving)
        assert np.isfinite(metrics["generator_loss"]) == (len(moving) == 2)
        assert np.isfinite(metrics["grad_norm"]) == ("generator" in moving)
        assert np.isfinite(metrics["loss"])
        assert set(SHOWN) <= set(metrics)
        state = after
    # What is drawn depends on the step's number, so a run that goes on draws what it would have drawn.
    first, again = run(state, make_batch()), run(state, make_batch())
    assert same(first, again)
    later = run(state.replace(step=state.step + 1), make_batch())
    assert float(later[1]["discriminator_loss"]) != float(first[1]["discriminator_loss"])
    assert run._cache_size() == 1


def test_the_discriminator_learns_the_same_whatever_the_generator_does_then():
    step = STEPS["policy"]
    state = first_state("policy").replace(step=jnp.int32(2))
    key = randomness.step_key(state.key, state.step)
    alone, _, _ = jax.jit(step._judging_step)(state, make_batch(), key)
    game, _ = compiled("policy")(state, make_batch())
    assert not same(game.params["generator"], state.params["generator"])
    assert not same(game.params["discriminator"], state.params["discriminator"])
    for left, right in zip(
        jax.tree.leaves(alone.params["discriminator"]),
        jax.tree.leaves(game.params["discriminator"]),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


def test_an_update_is_as_large_as_its_rate_says():
    state = first_state("policy")
    ones = jax.tree.map(jnp.ones_like, state.params["discriminator"])
    update = jax.jit(lambda rate: STEPS["policy"]._updated(state, "discriminator", ones, rate))
    before = state.params["discriminator"]
    whole, half, none = (update(rate).params for rate in (1.0, 0.5, 0.0))
    assert same(none["discriminator"], before)
    jax.tree.map(
        lambda x, a, b: np.testing.assert_allclose(x - a, 2 * (x - b), rtol=1e-3, atol=1e-6),
        before, whole["discriminator"], half["discriminator"],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_eight_devices_play_as_one_does(name):
    """Each phase, from the state that one device was in."""
    step, batch = STEPS[name], make_batch(rows=8)
    boxed = step.init(jax.random.key(0), batch)
    state = nn.unbox(boxed)
    mesh = parallel.make_mesh(parallel.Config(data=4, fsdp=2))
    shardings = parallel.state_shardings(boxed, mesh)
    alone = jax.jit(step.step)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        spread = jax.jit(step.step, out_shardings=(shardings, None))
    for _ in range(3):
        new, metrics = alone(state, batch)
        with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
            found = spread(jax.device_put(state, shardings), parallel.placer(mesh)(batch))
        for name in metrics:
            np.testing.assert_allclose(found[1][name], metrics[name], rtol=1e-3, atol=1e-5)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        jax.tree.map(close, jax.device_get(found[0].params), jax.device_get(new.params))
        state = new


@pytest.mark.parametrize(
    ("number", "player"), [(0, "generator"), (1, "discriminator"), (2, "discriminator")]
)
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(number, player):
    state = first_state("gumbel").replace(step=jnp.int32(number))
    broken = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), state.params[player])
    poisoned = state.replace(params=state.params | {player: broken})
    after, metrics = compiled("gumbel")(poisoned, make_batch())
    assert not bool(metrics["finite"]) and int(after.step) == number + 1
    for name in ("opt_state", "ema"):
        assert same(getattr(after, name), getattr(state, name))
    other = {"generator": "discriminator", "discriminator": "generator"}[player]
    assert same(after.params[other], state.params[other])


def test_ema_by_hand():
    for number, decay in ((2, 3 / 12), (100, 0.75)):  # (1 + n) / (10 + n), then the decay
        state = first_state("gumbel").replace(step=jnp.int32(number))
        after, _ = compiled("gumbel")(state, make_batch())
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, state.ema, after.params
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, expected
        )


def test_each_player_has_a_schedule_of_its_own_updates():
    assert STEPS["policy"].num_updates == {"generator": 9, "discriminator": 9}
    assert STEPS["gumbel"].num_updates == {"generator": 9, "discriminator": 18}
    likelihood = make_step(pretrain_fraction=1.0, discriminator_fraction=0.0)
    assert likelihood.num_updates == {"generator": 10, "discriminator": 0}
    state, rates = first_state("gumbel"), []
    for _ in range(4):
        state, metrics = compiled("gumbel")(state, make_batch())
        rates.append(float(metrics["lr"]))
    # Of nine updates: the first; none, with the second to come; the second and the third at half the rate.
    np.testing.assert_allclose(rates, np.array([9, 8, 4, 3.5]) / 9 * 1e-2, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "begins"),
    [(1221, (976, 1001)), (24, (19, 19)), (10, (8, 8)), (2, (1, 1)), (1, (0, 0))],
)
def test_phases_are_shares_of_a_run_however_long_it_is(num_steps, begins):
    """And there is a game at its end."""
    config = Config(pretrain_fraction=0.8, discriminator_fraction=0.02)
    assert config.begins(num_steps) == begins
    assert Config(pretrain_fraction=1.0).begins(num_steps) == (num_steps, num_steps)
    split = Config(pretrain_fraction=0.7, discriminator_fraction=0.1)
    assert split.begins(10) == (7, 8)  # 0.7 + 0.1 is 0.7999999999999999


def test_temperature_falls_geometrically_to_the_end_of_the_game():
    shares = {"pretrain_fraction": 0.2, "discriminator_fraction": 0.2}
    config = Config(**shares, temperature=4.0, min_temperature=1.0)
    found = [float(config.temperature_at(jnp.int32(step), 15)) for step in (0, 6, 10, 14)]
    np.testing.assert_allclose(found, [4, 4, 2, 1], rtol=1e-6)
    assert float(config.temperature_at(jnp.int32(0), 1)) == 4.0
    same_one = Config(temperature=3.0, min_temperature=3.0)
    assert float(same_one.temperature_at(jnp.int32(9), 10)) == 3.0


def test_the_likelihoods_share_is_added():
    step = make_step(objective=losses.Config(likelihood=2.0))
    batch, key = make_batch(), jax.random.key(1)
    state = init(step)

    @jax.jit
    def values(generator):
        both, own = step.game.of_generator(state, generator, batch, key)
        return both, own, step.game.likelihood(state, generator, batch, key, train=True)[0]

    both, own, likelihood = values(state.params["generator"])
    assert float(both) == pytest.approx(float(own + 2 * likelihood), rel=1e-5)
    assert float(likelihood) > 0.1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain_fraction": 500}, "step.pretrain_fraction=500 must be from 0 to 1"),
        (
            {"pretrain_fraction": 0.9, "discriminator_fraction": 0.2},
            "step.discriminator_fraction=0.2 are more than 1 together",
        ),
        ({"discriminator_updates": 0}, "step.discriminator_updates=0 must be at least 1"),
        ({"rollout_every": 0}, "step.rollout_every=0"),
        ({"temperature": 0.5}, r"step.min_temperature=1.0 .* at most step.temperature=0.5"),
        ({"min_temperature": 0.0}, "step.min_temperature=0.0 must be above 0"),
        ({"generator_rate": -1.0}, "step.generator_rate=-1.0"),
        ({"ema_decay": 1.0}, "step.ema_decay=1.0"),
        ({"on_nonfinite": "x"}, 'step.on_nonfinite="x"'),
    ],
)
def test_a_wrong_config_names_the_key(fields, said):
    with pytest.raises(ValueError, match=said):
        Config(**fields)


def refused(objective=None, parts=1, tuning=None, sections=None, **config):
    step = make_step()
    objective = objective or step.game.objective
    more = {} if tuning is None else {"tuning": tuning}
    sections = step.optim if sections is None else sections
    return Adversarial(
        Config(**config), step.model, objective, None, None, parts, optim=sections, num_steps=4, **more
    )  # fmt: skip


def test_what_can_not_be_learned_so_is_refused():
    with pytest.raises(ValueError, match="micro_batch_size splits a batch into 2 parts"):
        refused(parts=2)
    other = causal_lm.CausalLM(causal_lm.Config(), GPT(GPTConfig(vocab_size=8)))
    with pytest.raises(ValueError, match='objective.kind="adversarial", not "causal_lm"'):
        refused(other)
    with pytest.raises(ValueError, match='tuning.kind="full"'):
        refused(tuning=partial.Partial.__new__(partial.Partial))
    with pytest.raises(ValueError, match="a section for each player.*not one for all"):
        refused(sections=optim.Config())
    with pytest.raises(ValueError, match=r"a section for each player.*not \['generator'\]"):
        refused(sections={"generator": optim.Config()})
    with pytest.raises(ValueError, match='step.num_rollouts=2 is for objective.generator="policy"'):
        refused(num_rollouts=2)
