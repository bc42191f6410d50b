"""Sparse autoencoders, one file per on-disk format. Names only; a format is imported when it is asked for."""

FORMATS: dict[str, str] = {}
