"""What configs of models share: checks of their fields, and what follows from the vocabulary and the dtype. No fields of its own."""

from __future__ import annotations

import jax

DTYPES = ("auto", "float32", "bfloat16")


class ModelConfig:
    """A base for frozen dataclasses with `vocab_size`, `vocab_multiple` and `dtype`."""

    vocab_size: int
    vocab_multiple: int
    dtype: str

    def check_choices(self, **accepted: tuple[str, ...]) -> None:
        """Raise if a field has none of its accepted values."""
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"model.{name}={getattr(self, name)!r}: accepted are {', '.join(values)}"
                )

    def check_least(self, **least: float) -> None:
        """Raise if a field is below its least value; None is another field's to say."""
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise ValueError(f"model.{name}={value} must be at least {bound}")

    def check_rates(self, *names: str) -> None:
        """Raise if a share that is dropped is none; None is another field's to say."""
        for name in names:
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} must be in [0, 1)")

    @property
    def vocab_rows(self) -> int:
        """Rows of the tables: the vocabulary, padded."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def compute_dtype(self) -> str:
        """`dtype`, with auto decided by the default device."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
