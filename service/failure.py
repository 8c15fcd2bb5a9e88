"""What ends a command: each is one line that says what is wrong and what to do, and exit code 1."""


class Failure(Exception):
    """A command cannot go on; the message says why and what to do."""


class RedisUnavailable(Failure):
    """No usable Redis."""


class CannotListen(Failure):
    """Nobody can be served at HOST and PORT."""
