"""The reader of uploaded files: bytes in, chunks of typed columns out, in bounded memory."""
