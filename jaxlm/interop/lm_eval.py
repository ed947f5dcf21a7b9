"""A model as a client of EleutherAI's Language Model Evaluation Harness (`lm_eval`): importing this registers "jaxlm" with it.

Prompts, truncation, prefix token and what ends a text are those of the harness's own Hugging Face backend, so that scores of
the same weights are the same. No scores are computed here, and no torch is needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxlm import api
from jaxlm.data import chat_templates
from jaxlm.eval.likelihood import Likelihood
from jaxlm.eval.results import weights_digest
from jaxlm.interop.lm_eval_options import Writing, check_arguments
from jaxlm.interop.lm_eval_texts import Vocabulary
from jaxlm.registry import need

need("lm_eval", "eval")

from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.api.registry import register_model  # noqa: E402

_log = logging.getLogger(__name__)


@register_model("jaxlm")
class JaxLM(TemplateLM):
    """`--model jaxlm --model_args path=DIR,...`.

    Args:
      path: a run, a Hugging Face folder or a .gguf file.
      batch_size: sequences at once; it does not change results.
      max_length: positions to use; None: all that the model was trained with.
      best: a run's best checkpoint instead of its newest.
      prefix_token_id: what stands before a text without context; None: the token that begins a text, else the one that ends it.
      add_bos_token: put that token before every text; None: as the model's own tokenizer file says.
      seed: of tasks that draw; a request's draws depend on it and on the request's number only.
      device: what must be running, to be sure of it: JAX_PLATFORMS chooses.

    Raises:
      ValueError: another argument, the nearest one is named; or a model that can't be loaded.
    """

    def __init__(
        self,
        path: str = "",
        batch_size: int | str = 1,
        max_length: int | None = None,
        best: bool = False,
        prefix_token_id: int | None = None,
        add_bos_token: bool | None = None,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ):
        super().__init__()
        check_arguments(path, batch_size, device, max_batch_size, unknown)
        self.path, self.seed, self._device = str(path), seed, device
        self.batch_size = int(batch_size)
        self.lm = api.load(path, best=best)
        if self.lm.tokenizer is None:
            raise ValueError(f"{path} has no tokenizer: the harness's tasks are texts")
        self.backend = "seq2seq" if "source" in self.lm.model.inputs else "causal"
        self.max_length = self.lm.max_len if max_length is None else int(max_length)
        if not 1 <= self.max_length <= self.lm.max_len:
            raise ValueError(
                f"max_length={max_length} must be in 1..{self.lm.max_len}, the model's own"
            )
        folders = (Path(self.path), Path(self.path) / api.IMPORTED)
        self._texts = Vocabulary(self.lm, folders, prefix_token_id, add_bos_token)

    # texts and tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._known(self._texts.end_id, "ends")

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without context is scored after."""
        return self._known(self._texts.prefix_id, "begins")

    def _known(self, token: int | None, does: str) -> int:
        if token is None:
            raise ValueError(f"{self.path}: no token {does} a text: say prefix_token_id=")
        return token

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids; see `lm_eval_texts.Vocabulary`."""
        return self._texts.encode(string, add_special_tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context.strip():  # spaces go to the continuation, and nothing is left
            return [self.prefix_token_id], self.tok_encode(context + continuation, False)
        return super()._encode_pair(context, continuation)

    # scores

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for texts, _, ids in requests:
            if not ids:
                raise ValueError(
                    f"{texts[1]!r} after {texts[0][-40:]!r}: the continuation has no token of its own"
                )
        bar = _bar(len(requests), "Running loglikelihood requests", disable_tqdm)

        def keep(number: int, found: Likelihood) -> None:
            answer = (found.total, found.greedy)
            self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
            bar.update(1)

        with bar:
            found = self.lm.loglikelihoods(
                [(context, ids) for _, context, ids in requests],
                batch_size=self.batch_size,
                max_len=self.max_length,
                on_result=keep,
            )
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each text, nats; windows of max_length, a token of context where one begins."""
        texts = [request.args[0] for request in requests]
        bar = _bar(len(texts), "Running loglikelihood_rolling requests", disable_tqdm)

        def keep(number: int, found: Likelihood) -> None:
            self.cache_hook.add_partial("loglikelihood_rolling", (texts[number],), found.total)
            bar.update(1)

        with bar:
            found = self.lm.rolling(
                [self.tok_encode(text) for text in texts],
                batch_size=self.batch_size,
                max_len=self.max_length,
                prefix_id=self.prefix_token_id,
                on_result=keep,
            )
        return [one.total for one in found]

    # writing

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [""] * len(requests)
        with _bar(len(requests), "Running generate_until requests", disable_tqdm) as bar:
            for kwargs, numbers in groups.items():
                how = Writing(json.loads(kwargs), self.max_length, self.backend)
                end_id = self._texts.end_id
                stop = [*how.stop, *([] if end_id is None else [self._texts.spelt(end_id)])]
                prompts = {n: self._prompt(requests[n].args[0])[-how.room :] for n in numbers}
                if not how.draws:  # else a request's seed is its number
                    numbers = sorted(numbers, key=lambda n: len(prompts[n]), reverse=True)
                for batch in _batches(numbers, self.batch_size, how.draws):
                    found = self.lm.write(
                        [prompts[number] for number in batch],
                        method=how.method,
                        max_tokens=how.max_tokens,
                        seed=self.seed + batch[0],
                        stop=stop,
                        batch_size=self.batch_size,
                        **how.settings,
                    )
                    for number, best in zip(batch, found, strict=True):
                        texts[number] = _cut(self._texts.decode(best[0].tokens), stop)
                        args = requests[number].args
                        self.cache_hook.add_partial("generate_until", args, texts[number])
                        bar.update(1)
        return texts

    def _prompt(self, context: str) -> list[int]:
        return self.tok_encode(context) or [self.prefix_token_id]

    # conversations

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the text that the model's template makes of it.

        Without a generation prompt its end is open, for the model to go on. A template that refuses the conversation is
        given it without system messages, with a warning, as the Hugging Face backend does.

        Raises:
          ValueError: the model has no template, or it refuses that too.
        """
        how = {"add_generation_prompt": add_generation_prompt, "go_on": not add_generation_prompt}
        template = chat_templates.needed(self.lm.chat_template)
        try:
            return template.render(chat_history, **how)
        except ValueError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) in (0, len(chat_history)):
                raise
            _log.warning("%s: left out the system messages", error)
            return template.render(rest, **how)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template, whose digest the harness writes into its results; None if not asked for.

        Raises:
          ValueError: the model has no template, or none of this name.
        """
        if not chat_template:
            return None
        if chat_template not in (True, "default"):
            raise ValueError(
                f"apply_chat_template={chat_template}: the model has one template, the default"
            )
        return chat_templates.needed(self.lm.chat_template).source

    @property
    def tokenizer_name(self) -> str:
        """Names cached requests, with the template."""
        return f"{self.lm.tokenizer.name}-{self.lm.tokenizer.digest[:16]}".replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results of the model."""
        return {
            "model_num_parameters": sum(leaf.size for leaf in jax.tree.leaves(self.lm.params)),
            "model_dtype": self.lm.config.model.dtype,
            "model_sha": weights_digest(self.lm.params),
            "model_step": self.lm.step,
            "max_length": self.max_length,
            "tokenizer_sha": self.lm.tokenizer.digest,
        }


def harness() -> Any:
    """The harness's command line, its log set up: parse_args() and execute(arguments)."""
    need("lm_eval.utils", "eval").setup_logging()
    return need("lm_eval._cli", "eval").HarnessCLI()


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text before any of the stop strings."""
    for one in stop:
        text = text.split(one)[0]
    return text


def _batches(numbers: Sequence[int], size: int, draws: bool) -> Iterator[list[int]]:
    """Lists of at most so many; where seeds matter, of consecutive numbers."""
    batch: list[int] = []
    for number in numbers:
        if len(batch) == size or (draws and batch and number != batch[-1] + 1):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _bar(total: int, name: str, disable: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, disable=disable)
