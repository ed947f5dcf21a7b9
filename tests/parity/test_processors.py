"""Penalties, temperature and cuts against transformers' on random logits."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jaxlm.decode import processors  # noqa: E402
from jaxlm.decode.processors import History  # noqa: E402
from jaxlm.decode.sampling import Sampling  # noqa: E402

B, V = 6, 1000
THEIRS = {
    "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}
CASES = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.3},
    *({"top_k": k} for k in (1, 40, 999)),
    *({"top_p": p} for p in (0.05, 0.5, 0.9, 0.999)),
    *({"min_p": p} for p in (0.001, 0.1, 0.9)),
    {"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_processors_do_what_transformers_do(case, scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.standard_normal((B, V))).astype(np.float32)
    ids = rng.integers(0, V, (B, 30))
    theirs = torch.tensor(logits)
    for name, value in case.items():
        theirs = THEIRS[name](value)(torch.tensor(ids), theirs)
    seen = np.zeros((B, V), bool)
    np.put_along_axis(seen, ids, True, axis=1)
    values = Sampling(**{"temperature": 0.0} | case).values()
    ours = processors.process(jnp.asarray(logits), values, History(jnp.asarray(seen)))
    assert np.isfinite(ours).sum() < B * V or not {"top_k", "top_p", "min_p"} & case.keys()
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
