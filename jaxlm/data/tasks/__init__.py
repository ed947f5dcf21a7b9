"""The registry of tasks: `data.kind` -> class; a dotted path "your_module:YourTask" works too."""

TASKS = {
    "text": "jaxlm.data.tasks.text:TextTask",
    "packed_text": "jaxlm.data.tasks.packed:PackedTask",
    "masked_text": "jaxlm.data.tasks.masked:MaskedTextTask",
    "span_text": "jaxlm.data.tasks.spans:SpanTextTask",
    "prefix_text": "jaxlm.data.tasks.prefix:PrefixTextTask",
    "blank_text": "jaxlm.data.tasks.blanks:BlankTextTask",
    "fim_text": "jaxlm.data.tasks.fim:FimTextTask",
    "pairs": "jaxlm.data.tasks.pairs:PairsTask",
    "packed_pairs": "jaxlm.data.tasks.packed_pairs:PackedPairsTask",
    "captions": "jaxlm.data.tasks.captions:CaptionsTask",
    "labelled": "jaxlm.data.tasks.labelled:LabelledTask",
    "tagged": "jaxlm.data.tasks.tagged:TaggedTask",
}

MADE_FOR = {
    "text": ("causal_lm", "multi_token"),
    "packed_text": ("causal_lm", "multi_token"),
    "fim_text": ("causal_lm", "multi_token"),
    "masked_text": ("masked_lm",),
    "span_text": ("seq2seq",),
    "prefix_text": ("prefix_lm",),
    "blank_text": ("blank_infilling",),
    "pairs": ("seq2seq",),
    "packed_pairs": ("seq2seq",),
    "captions": ("image_to_text",),
    "labelled": ("classification",),
    "tagged": ("classification",),
}
"""`data.kind` -> the objectives that its targets are for; what is not named here goes with any."""
