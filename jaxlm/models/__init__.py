"""Model families by name. A dotted path "your_module:YourModel" in a config works as well."""

MODELS = {
    "gpt": "jaxlm.models.gpt:GPT",
}
