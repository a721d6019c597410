"""Bytes on disk: atomic verified writes, hashes, arrays, tensors and locks. Knows nothing of records."""
