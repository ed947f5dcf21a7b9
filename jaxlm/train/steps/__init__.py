"""How learning happens, by name: each builds a `core.types.Step`."""

STEPS = {
    "gradient": "jaxlm.train.steps.gradient:Gradient",
    "policy": "jaxlm.train.steps.policy:Policy",
}
