"""What an error reply of Redis means: "not now", which passes, or that we have sent something wrong.

Each version says it in its own words, above all from within a script. All are read here, once, where redis-py makes
an exception of a reply: so it is the same for a command, a script, a pipeline and a transaction.
"""

from __future__ import annotations

import re

import redis


class NotNow(redis.exceptions.ResponseError):
    """Redis refuses what it would do at another time: to be treated as if it were away.

    A ResponseError, which tells redis-py that the connection is fine and that there is no use in trying at once.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason, status_code=code)
        self.code = code
        """Redis's word for why: MISCONF, OOM, READONLY, ..."""
        self.reason = reason
        """That word and Redis's sentence."""


OUR_FAULT = frozenset(
    {
        *("ERR", "WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "EXECABORT", "NOPROTO", "NOTBUSY"),
        *("BUSYGROUP", "BUSYKEY", "NOGROUP", "INVALIDOBJ", "BADARITY"),
    }
)
"""Codes that say that the same command would be refused at any time. All others, of later versions too, pass."""

# What is said with no code of its own, or with ERR.
_IN_OTHER_WORDS = (
    ("MAXCLIENTS", re.compile(r"^ERR max(imum)? .*(reached|exceeded)", re.I)),
    ("NOPERM", re.compile(r"^(ERR )?(ACL failure in script|The user executing the script can't)")),
    ("KILLED", re.compile(r"^(ERR )?Script killed by user")),
    ("LDAP", re.compile(r"^ERR problem with LDAP service")),
    ("PROXY", re.compile(r"^(ERR )?(no upstream|upstream|no server|server) (host|failure|connection)", re.I)),
    ("PROXY", re.compile(r"^ERR Connection (refused|timed out|reset)", re.I)),
)
_ABORTED = re.compile(r"^EXECABORT .*because of: (?=[A-Z]+ )")
_IN_SCRIPT_OF_6 = re.compile(r"^(ERR Error running script \(call to \w+\): )?(@?user_script: ?\d+: )+-?")
_IN_SCRIPT_OF_7 = re.compile(r"\s*script: (\w+, )?on @user_script:\d+\.?$")
_CODE = re.compile(r"^([A-Z][A-Z0-9]+) ")


def refusal(reply: str) -> NotNow | None:
    """The reply as NotNow; None if it says that what was sent is wrong."""
    told = _IN_SCRIPT_OF_7.sub("", _IN_SCRIPT_OF_6.sub("", _ABORTED.sub("", reply)))
    code = _CODE.match(told)
    if code and code[1] not in OUR_FAULT:
        return NotNow(code[1], told)
    for word, pattern in _IN_OTHER_WORDS:
        if pattern.match(told):
            return NotNow(word, f"{word} {told.removeprefix('ERR ')}")
    return None


def refusal_of(error: Exception) -> NotNow | None:
    """The same of an error that redis-py has raised, whichever parser its connection has."""
    if isinstance(error, NotNow):
        return error
    if not isinstance(error, redis.exceptions.ResponseError):
        return None
    # redis-py takes the code off the replies that it knows, and a pipeline puts the command before them.
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return refusal(f"{error.status_code} {text}" if error.status_code else text)
