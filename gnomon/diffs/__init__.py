"""Two studies held against each other: what was asked of them, and which numbers moved."""
