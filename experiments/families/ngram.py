"""N-grams of up to five characters, interpolated and smoothed by modified Kneser-Ney (Chen and Goodman 1998).

    python -m jaxlm.launch --config experiments/families/ngram.py
    python -m jaxlm.launch --config experiments/families/ngram.py --config.model.smoothing=witten_bell

The text is counted once, in its order: 8,192 windows a step, and no more steps than it has.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "ngram", order=5)
    cfg.data = config.section(
        "data",
        "stream_text",
        path="bundled:shakespeare",
        tokenizer="chars",
        seq_len=128,
        num_streams=1,
        eval_examples=256,
    )
    cfg.step = config.section("step", "counting")
    cfg.batch_size = 8192
    cfg.num_steps = 1
    return cfg
