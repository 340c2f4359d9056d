"""Models in folders and repositories."""
