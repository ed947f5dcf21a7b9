"""Chat templates in the styles that models have, and a small chat model with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path

import stored

from jaxlm.data import special_tokens, tokenizer_json, tokenizers

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
{%- endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = '' %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{{- '<|start|>system<|mid|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system_message + '<|end|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|mid|>\\n\\n' + message['content'] | trim + '<|end|>' }}
    {%- elif 'tool_calls' in message %}
        {{- '<|start|>assistant<|mid|>\\n\\n' + (message.tool_calls[0].function | tojson) + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|mid|>\\n\\n' }}{%- endif %}
"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{% endfor %}"""
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|mid|>", "<|end|>", "<s>", "</s>"]
ASK = [{"role": "user", "content": "Hi!"}]
TURNS = [*ASK, {"role": "assistant", "content": " Hello. "}, {"role": "user", "content": "ü 世"}]


def tokenizer_data() -> bytes:
    """A tokenizer.json of bytes: <eos> is 256, then SPECIAL."""
    longer = special_tokens.with_special_tokens(tokenizers.build("bytes"), SPECIAL)
    return tokenizer_json.to_json(longer)


def write(folder: Path, template=CHATML, max_len: int = 128, **facts) -> Path:
    """A random Llama of bytes in the Hugging Face layout."""
    config = stored.LLAMA | {"vocab_size": 272, "max_position_embeddings": max_len}
    config |= {"eos_token_id": 258}
    stored.write(folder, config, stored.llama_tensors(config=config))
    (folder / "tokenizer.json").write_bytes(tokenizer_data())
    facts = {
        "eos_token": "<|im_end|>",
        "bos_token": {"__type": "AddedToken", "content": "<s>"},
    } | facts
    facts |= {"chat_template": template} if template is not None else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder
