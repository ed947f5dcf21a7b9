"""Model families by name. A dotted path "your_module:YourModel" in a config works as well."""

MODELS = {
    "gpt": "jaxlm.models.gpt:GPT",
    "bert": "jaxlm.models.bert:BERT",
    "t5": "jaxlm.models.t5:T5",
    "encoder_decoder": "jaxlm.models.encoder_decoder:EncoderDecoder",
    "glm": "jaxlm.models.glm:GLM",
    "vlm": "jaxlm.models.vlm:VLM",
}
