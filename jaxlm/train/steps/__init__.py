"""How learning happens, by name: each builds a `core.types.Step`."""

STEPS = {
    "gradient": "jaxlm.train.steps.gradient:Gradient",
    "counting": "jaxlm.train.steps.counting:Counting",
    "sparse": "jaxlm.train.steps.sparse:Sparse",
    "em": "jaxlm.train.steps.em:EM",
    "adversarial": "jaxlm.train.steps.adversarial:Adversarial",
    "policy": "jaxlm.train.steps.policy:Policy",
}
