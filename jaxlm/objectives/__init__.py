"""Objectives by name. A dotted path "your_module:YourObjective" in a config works as well."""

OBJECTIVES = {
    "causal_lm": "jaxlm.objectives.causal_lm:CausalLM",
    "multi_token": "jaxlm.objectives.multi_token:MultiToken",
    "prefix_lm": "jaxlm.objectives.prefix_lm:PrefixLM",
    "masked_lm": "jaxlm.objectives.masked_lm:MaskedLM",
    "seq2seq": "jaxlm.objectives.seq2seq:Seq2Seq",
    "blank_infilling": "jaxlm.objectives.blank_infilling:BlankInfilling",
    "image_to_text": "jaxlm.objectives.image_to_text:ImageToText",
    "classification": "jaxlm.objectives.classification:Classification",
}
