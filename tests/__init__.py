"""The tests; each folder is for the one of the same name, or for a property of the whole system."""
