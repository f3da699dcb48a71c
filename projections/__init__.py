"""Events in, Postgres rows out: one file a read model, with its checkpoint in the same transaction."""
