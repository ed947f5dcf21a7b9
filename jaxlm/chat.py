"""Talk to a chat model.

python -m jaxlm.chat --model SmolLM2-135M-Instruct.Q4_1.gguf --system "Answer in one sentence." --temperature 0.3
echo "What is the capital of France?" | python -m jaxlm.chat --model DIR

In a terminal: /reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer, /help says so. Lines of a
pipe are turns; only the answers are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from jaxlm import cli

HELP = """\
/reset   forget the conversation
/exit    leave (so does Ctrl-D)
/help    this
Ctrl-C   stop an answer"""
SETTINGS = {
    "temperature": (float, "0 takes the likeliest token each time; default 0.8"),
    "top_k": (int, "keep the k likeliest tokens"),
    "top_p": (float, "keep the fewest tokens that are so probable together"),
    "min_p": (float, "keep tokens with this share of the likeliest one's probability"),
    "repetition_penalty": (float, "above 1 makes tokens of the conversation less likely"),
    "presence_penalty": (float, "taken off the logits of tokens that were written"),
    "frequency_penalty": (float, "taken off for each time that a token was written"),
}
"""Of jaxlm.decode.sampling, where their defaults stand."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("jaxlm.chat", "Talk to a chat model.")
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="a Hugging Face folder, a .gguf or a run"
    )
    parser.add_argument("--system", metavar="TEXT", help="what stands before the conversation")
    parser.add_argument(
        "--template", metavar="FILE", help="a chat template (Jinja2) instead of the model's own"
    )
    parser.add_argument("--max_tokens", type=int, default=512, help="of an answer; default 512")
    parser.add_argument("--seed", type=int, default=0, help="turn number n draws by seed + n")
    for name, (kind, text) in SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text, default=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    return cli.guarded(lambda: _chat(options), logs=sys.stderr)


def _chat(options: argparse.Namespace) -> None:
    from jaxlm import api  # after the arguments: their mistakes show at once

    lm = api.load(options.model)
    if options.template is not None:
        lm = lm.with_template(options.template)
    settings = {name: getattr(options, name) for name in SETTINGS if name in options}
    talk = Conversation(lm, options.system, options.max_tokens, options.seed, settings)
    talk.check()
    in_terminal = sys.stdin.isatty()
    for line in _typed() if in_terminal else map(str.strip, sys.stdin):
        if line == "/exit":
            return
        if line == "/reset":
            talk.reset()
        elif line == "/help" or (in_terminal and line.startswith("/")):
            _note(HELP)
        elif line:
            talk.answer(line, may_be_stopped=in_terminal)


def _typed() -> Iterator[str]:
    """Lines of a terminal, up to Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys in input())
    _note("/help says what can be typed")
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


class Conversation:
    """What was said, and the model that answers.

    Args:
      lm: a `LanguageModel`.
      system: the system message, which is never forgotten; None: the template's own, if any.
      max_tokens: of an answer.
      seed: turn number n draws by seed + n.
      settings: of sampling.
    """

    def __init__(
        self, lm: Any, system: str | None, max_tokens: int, seed: int, settings: dict[str, Any]
    ):
        self.lm, self.max_tokens, self.seed, self.settings = lm, max_tokens, seed, settings
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turn = 0
        self.reset()

    def reset(self) -> None:
        """Forget all that was said."""
        self.messages: list[dict[str, str]] = []  # of user and assistant by turns

    def check(self) -> None:
        """Raise ValueError where the model can't answer: no template, or one that refuses."""
        self.lm.chat_ids([*self._system, {"role": "user", "content": "Hello"}])

    def answer(self, text: str, may_be_stopped: bool = False) -> None:
        """Print the answer to a message as it comes, and remember both.

        Args:
          text: the message.
          may_be_stopped: Ctrl-C ends the answer only; what was written of it is kept.
        """
        self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        if prompt is None:
            return
        pieces: list[str] = []
        seed = self.seed + self._turn
        self._turn += 1
        try:
            (best, *_), *_ = self.lm.write(
                [prompt],
                max_tokens=self.max_tokens,
                seed=seed,
                on_text=lambda _, piece: _show(piece, pieces),
                **self.settings,
            )
        except KeyboardInterrupt:
            if not may_be_stopped:
                raise
            print()
            if not pieces:
                self.messages.pop()
                return
        else:
            print(flush=True)
            if best.finish == "length":
                _note(f"[stopped after --max_tokens {self.max_tokens}]")
        self.messages.append({"role": "assistant", "content": "".join(pieces)})

    def _prompt(self) -> list[int] | None:
        """The conversation's tokens, with room for an answer; None where its last message alone is too long."""
        room = self.lm.max_len - min(self.max_tokens, self.lm.max_len // 2)
        kept = self.messages
        while len(ids := self.lm.chat_ids([*self._system, *kept])) > room and len(kept) > 1:
            kept = kept[2:]
        if len(ids) > room:
            self.messages.pop()
            _note(f"[not sent, being too long: {len(ids)} tokens; {room} leave room for an answer]")
            return None
        if forgotten := (len(self.messages) - len(kept)) // 2:
            turns = "turn is" if forgotten == 1 else f"{forgotten} turns are"
            _note(f"[the context is full: the oldest {turns} forgotten]")
        self.messages = kept
        return ids


def _show(piece: str, pieces: list[str]) -> None:
    pieces.append(piece)
    print(piece, end="", flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
