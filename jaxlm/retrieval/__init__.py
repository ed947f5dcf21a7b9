"""Passages found for a question: by the words they share (BM25), by a sentence encoder's vectors, or by both."""
