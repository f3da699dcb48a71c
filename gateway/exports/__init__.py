"""Results as files: a writer for each format, over chunks of columns."""
