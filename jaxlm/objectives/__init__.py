"""Objectives by name. A dotted path "your_module:YourObjective" in a config works as well."""

OBJECTIVES = {
    "causal_lm": "jaxlm.objectives.causal_lm:CausalLM",
}
