"""The registry of tasks: `data.kind` -> class; a dotted path "your_module:YourTask" works too."""

TASKS = {
    "text": "jaxlm.data.tasks.text:TextTask",
    "packed_text": "jaxlm.data.tasks.packed:PackedTask",
    "masked_text": "jaxlm.data.tasks.masked:MaskedTextTask",
    "span_text": "jaxlm.data.tasks.spans:SpanTextTask",
    "prefix_text": "jaxlm.data.tasks.prefix:PrefixTextTask",
    "pairs": "jaxlm.data.tasks.pairs:PairsTask",
    "labelled": "jaxlm.data.tasks.labelled:LabelledTask",
    "tagged": "jaxlm.data.tasks.tagged:TaggedTask",
}

MADE_FOR = {
    "text": "causal_lm",
    "packed_text": "causal_lm",
    "masked_text": "masked_lm",
    "span_text": "seq2seq",
    "prefix_text": "prefix_lm",
    "pairs": "seq2seq",
    "labelled": "classification",
    "tagged": "classification",
}
"""`data.kind` -> the objective that its targets are for; what is not named here goes with any."""
