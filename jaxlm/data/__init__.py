"""Text to batches, numpy only: tokenizers, sources, the token cache, tasks and the pipeline."""
