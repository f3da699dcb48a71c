"""A package, so that what its conftest starts is stopped when its last test has run."""
