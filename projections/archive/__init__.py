"""The permanent archive of the log: who fills it, and who checks it."""
