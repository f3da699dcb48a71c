"""`dex security check`: what a running system exposes, and where a setting is weak."""
