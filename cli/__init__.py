"""`dex`: the one place that may know everything; it starts, migrates, rebuilds, submits and shows."""
