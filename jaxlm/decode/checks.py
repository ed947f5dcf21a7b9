"""What a method cannot do, said before anything is compiled."""

from __future__ import annotations

from jaxlm.decode.types import Request


def check_room(request: Request, method: str) -> None:
    """Texts that are searched for do not slide: a prompt and what follows it stay in the context.

    Raises:
      ValueError: they do not fit.
    """
    longest = max(len(prompt) for prompt in request.prompts)
    if longest + request.max_tokens > request.max_len:
        raise ValueError(
            f"{method}: a prompt of {longest} tokens and max_tokens={request.max_tokens} do not fit into the "
            f"{request.max_len} positions that the model can hold: shorten the prompt or lower max_tokens"
        )


def refuse_constraints(request: Request, method: str) -> None:
    """A constraint follows one text a row, token by token.

    Raises:
      ValueError: there are some.
    """
    if request.allowed is not None:
        raise ValueError(f"{method} takes no constraint: use the method sample")
