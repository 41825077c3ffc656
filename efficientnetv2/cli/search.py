"""Modes search and scale."""


def search() -> None:
    raise NotImplementedError


def scale() -> None:
    raise NotImplementedError
