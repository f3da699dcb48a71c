"""The schema in Postgres and the streams on NATS: what they must be, and how they become so."""
