"""Proving the history: Merkle trees, signed checkpoints, the export's lines, and their verification. No I/O."""
