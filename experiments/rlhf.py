"""A chat model learns from a reward model: GRPO of a LoRA on the questions that the reward model was taught with, on a CPU.

    python tools/build_preferences.py preferences
    python -m jaxlm.launch --config experiments/dpo.py:reward --workdir runs/reward --config.init_from=MODEL
    python -m jaxlm.launch --config experiments/rlhf.py --config.objective.reward_model=runs/reward --config.init_from=MODEL
    python -m jaxlm.launch --config experiments/rlhf.py:ppo --config.objective.reward_model=runs/reward --config.init_from=MODEL

MODEL answers in a chat, as SmolLM2-135M-Instruct.Q4_1.gguf does (see dpo.py); both runs start from the same one. The model writes
four answers to each question, the reward model says how good each is where it ends, and the KL holds the model to what it
was (Ouyang et al. 2022, arXiv:2203.02155; GRPO: Shao et al. 2024, arXiv:2402.03300). plots/metrics.png has the reward
beside the KL; :ppo has a critic instead of several answers. A reward that rises while answers get worse has been outwitted:
read samples.txt, and see whether the words that held-out answers share with the right ones (f1 in summary.json) are fewer.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["ppo"])
    cfg = config.base()
    cfg.seed = 1
    # Its shape is that of init_from; one compiled layer, 30 times, is compiled in seconds.
    cfg.model = config.section("model", "gpt", scan_layers=True)
    cfg.data = config.section(
        "data",
        "prompts",
        path="preferences/train.jsonl",
        val_path="preferences/held_out.jsonl",
        tokenizer="init_from",
        answer_column="chosen",
        chat_template=TEMPLATE,
        seq_len=64,
        eval_examples=64,
    )
    # The reward model alone; step.reward="exact_match" or one of your own is added to it.
    cfg.step = config.section("step", "policy", num_completions=4, reward="")
    cfg.objective = config.section("objective", "grpo", kl_coef=0.05)
    cfg.tuning = config.section("tuning", "lora", rank=8, alpha=16.0)
    cfg.optim = config.section(
        "optim", learning_rate=2e-4, warmup_steps=5, min_lr_ratio=0.1, weight_decay=0.0, b2=0.99
    )
    cfg.evaluators = ("answers",)
    cfg.checkpoint.best_metric = "f1"
    cfg.batch_size = 8  # prompts
    cfg.num_steps = 40
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 20
    cfg.sample_tokens = 24
    if variant == "ppo":
        cfg.model.value_head = True
        cfg.step.num_completions = 1
        cfg.step.num_epochs = 2
        cfg.objective = config.section("objective", "ppo", kl_coef=0.05)
        cfg.batch_size = 32
    return cfg


# That of dpo.py, so that the reward model reads what it was taught with.
TEMPLATE = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
