"""What RQ's peers queue; nobody runs it here."""


def add(x: int, y: int) -> int:
    return x + y
