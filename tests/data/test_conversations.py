"""Which tokens of a conversation are the assistant's: literal examples for four templates, and templates that can't tell."""

import chatting
import pytest
from chatting import CHATML, LLAMA3, MISTRAL

from jaxlm.data import chat_templates, conversations, tokenizers
from jaxlm.data.chat_templates import ChatTemplate

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "So?"},
    {"role": "assistant", "content": "a<s>"},
    {"role": "user", "content": "Bye"},
]
GEMMA = """{{ bos_token }}{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<|start|>' + role + '\\n' + message['content'] | trim + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>model\\n' }}{% endif %}"""
MARKED = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}",
)
EXPECTED = {
    "CHATML": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n[a<s><|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n"
    ),
    "LLAMA3": (
        "<s><|start|>system<|mid|>\n\nToday Date: 26 Jul 2024\n\n<|end|><|start|>user<|mid|>\n\nHi<|end|>"
        "<|start|>assistant<|mid|>\n\n[Yo<|end|>]<|start|>user<|mid|>\n\nSo?<|end|>"
        "<|start|>assistant<|mid|>\n\n[a<s><|end|>]<|start|>user<|mid|>\n\nBye<|end|>"
    ),
    "MISTRAL": "<s>[INST] Hi [/INST][ Yo</s>][INST] So? [/INST][ a<s></s>][INST] Bye [/INST]",
    "GEMMA": (
        "<s><|start|>user\nHi<|end|>\n<|start|>model\n[Yo<|end|>]\n<|start|>user\nSo?<|end|>\n<|start|>model\n"
        "[a<s><|end|>]\n<|start|>user\nBye<|end|>\n"
    ),
}
EXPECTED["MARKED"] = EXPECTED["CHATML"]
SOURCES = {
    "CHATML": CHATML, "LLAMA3": LLAMA3, "MISTRAL": MISTRAL, "GEMMA": GEMMA, "MARKED": MARKED,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.JsonTokenizer("chat", chatting.tokenizer_data(), "<|im_end|>", "here")


def reader(tokenizer, source):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return conversations.Reader(
        chat_templates.attached(tokenizer, ChatTemplate(source, tokens, "it"))
    )


def marked(tokenizer, read):
    """The text, with [ and ] around what is the assistant's."""
    text, end = "", 0
    for start, stop in read.answers:
        text += f"{tokenizer.decode(read.ids[end:start])}[{tokenizer.decode(read.ids[start:stop])}]"
        end = stop
    return text + tokenizer.decode(read.ids[end:])


@pytest.mark.parametrize("name", SOURCES)
def test_the_assistants_tokens_are_its_text_and_what_ends_it(tokenizer, name):
    made = reader(tokenizer, SOURCES[name])
    read = made.read(TALK)
    assert marked(tokenizer, read) == EXPECTED[name]
    whole = made.template.encode(tokenizer, TALK, add_generation_prompt=False)
    assert read.ids.tolist() == whole
    assert read.trained.sum() == sum(stop - start for start, stop in read.answers)
    # What is typed is letters, what ends an answer is a token.
    assert tokenizer.special_ids()["<s>"] not in read.ids[slice(*read.answers[1])]
    assert read.ids[read.answers[1][1] - 1] in tokenizer.special_ids().values()


def test_as_numbers(tokenizer):
    """ChatML without a system's message: <|im_start|> 257, <|im_end|> 258."""
    simple = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}<|im_end|>\n\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
    )
    read = reader(tokenizer, simple.replace("\n\n", "{{ '\\n' }}")).read(TALK[:2])
    asked = [257, *b"user\nHi", 258, *b"\n", 257, *b"assistant\n"]
    assert read.ids.tolist() == [*asked, *b"Yo", 258, *b"\n"]
    assert read.trained.tolist() == [False] * len(asked) + [True] * 3 + [False]


def test_an_answer_to_nothing_is_none(tokenizer):
    made = reader(tokenizer, CHATML)
    assert made.read(TALK[1:3]).answers == []
    assert len(made.read(TALK[1:4]).answers) == 1
    made = reader(tokenizer, MARKED)
    assert made.read(TALK[1:3]).answers == []
    read = made.read(TALK[1:4])
    assert [tokenizer.decode(read.ids[slice(*one)]) for one in read.answers] == ["a<s><|im_end|>"]


def test_the_day_does_not_matter(tokenizer):
    source = CHATML.replace("Be kind.", "' + strftime_now('%d %b %Y') + '")
    text = tokenizer.decode(reader(tokenizer, source).read(TALK).ids)
    assert "system\n26 Jul 2024<" in text


@pytest.mark.parametrize(
    "source, message",
    [
        (
            CHATML.replace("add_generation_prompt", "false"),
            r"it has no generation prompt: it writes '<\|im_start\|>assistant' before an answer only",
        ),
        (CHATML.replace("message['content']", "(messages | length) ~ message['content']"), "it is not prefix-stable"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "it rewrites what the assistant says"),
        (MISTRAL.replace("{% generation %}{{ ' ' +", "[A]{% generation %}{{ ' ' +"), r"but before an answer that it marks stands '.*\[A\]'"),
        (MISTRAL.replace("{{ ' ' + message['content'] + eos_token }}", "") + "{% generation %}{% endgeneration %}", "it marks no answer, or one twice"),
        ("{% for %}", "it, line 1: "),
    ],
)  # fmt: skip
def test_a_template_that_does_not_tell_is_refused(tokenizer, source, message):
    with pytest.raises(ValueError, match=message) as raised:
        reader(tokenizer, source)
    assert "\n" not in str(raised.value)


def test_a_template_may_stand_in_the_config(tokenizer, tmp_path):
    bare = chat_templates.attached(tokenizer, None)
    with pytest.raises(ValueError, match="give one with data.chat_template=FILE"):
        conversations.Reader(bare)
    given = chat_templates.given("{{ eos_token }}", "data.chat_template", bare)
    assert given.tokens == {"eos_token": "<|im_end|>"} and given.where == "data.chat_template"
    with pytest.raises(ValueError, match="data.chat_template nowhere can't be read"):
        chat_templates.given("nowhere", "data.chat_template", bare)
    with pytest.raises(ValueError, match="data.tokenizer=bpe:300 is made of a text"):
        conversations.open_tokenizer("bpe:300", "")


def test_a_tokenizer_keeps_its_template(tokenizer, tmp_path):
    template = ChatTemplate(LLAMA3, {"bos_token": "<s>"})
    chat_templates.attached(tokenizer, template).save(tmp_path)
    found = tokenizers.load(tmp_path)
    assert found.digest == tokenizer.digest
    assert (found.chat_template.source, found.chat_template.tokens) == (
        LLAMA3,
        {"bos_token": "<s>"},
    )
    chat_templates.attached(tokenizer, None).save(tmp_path)
    assert tokenizers.load(tmp_path).chat_template is None


@pytest.mark.parametrize("name, token", [("CHATML", "<|im_end|>"), ("LLAMA3", "<|end|>"), ("MISTRAL", "</s>")])  # fmt: skip
def test_what_ends_an_answer_ends_writing(tokenizer, name, token):
    made = reader(tokenizer, SOURCES[name])
    assert conversations.end_of_answer(made.tokenizer) == tokenizer.special_ids()[token]
    assert conversations.end_of_answer(chat_templates.attached(tokenizer, None)) is None


def test_what_a_record_may_hold():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert conversations.messages_of(["a", "b"]) == turns == conversations.messages_of(turns)
    assert conversations.messages_of("b", "assistant") == turns[1:]
    for wrong in ([], {"a": 1}, 3, ["a", {"role": "user", "content": "b"}]):
        with pytest.raises(ValueError, match="messages"):
            conversations.messages_of(wrong)
