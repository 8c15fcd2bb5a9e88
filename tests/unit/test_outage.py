"""What an error reply of Redis means. The texts are what servers have sent: Redis 6.2.14, 7.0.15, Valkey 9.1.2."""

from __future__ import annotations

import re

import pytest
import redis
from redis._parsers import _HiredisParser

from service.store.away import is_away, why
from service.store.permissions import ON_KEYS, OTHERS
from service.store.pool import Parser
from service.store.refusal import NotNow, refusal
from service.store.scripts import FOLDER

IN_6 = "ERR Error running script (call to f_d5249e8052c3f4c34bc1f4cee50869e173d4e4f4): @user_script:1: "
IN_7 = " script: d5249e8052c3f4c34bc1f4cee50869e173d4e4f4, on @user_script:1."
IN_9 = " script: on @user_script:1."

OOM = "OOM command not allowed when used memory > 'maxmemory'."
READONLY = "READONLY You can't write against a read only replica."
NOREPLICAS = "NOREPLICAS Not enough good replicas to write."
MISCONF = "MISCONF Errors writing to the AOF file: No space left on device"
SNAPSHOT = "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk."

NOT_NOW = {
    **{reply: reply.partition(" ")[0] for reply in (OOM, READONLY, NOREPLICAS, MISCONF, SNAPSHOT)},
    **{f"{IN_6}@user_script: 1: -{each}": each.split()[0] for each in (OOM, READONLY, NOREPLICAS, MISCONF, SNAPSHOT)},
    **{f"@user_script: 1: -{each}": each.split()[0] for each in (OOM, READONLY, NOREPLICAS, MISCONF, SNAPSHOT)},
    **{f"{each}{IN_7}": each.split()[0] for each in (OOM, READONLY, NOREPLICAS, MISCONF, SNAPSHOT)},
    **{f"{each}{IN_9}": each.split()[0] for each in (OOM, READONLY, NOREPLICAS, MISCONF, SNAPSHOT)},
    f"EXECABORT Transaction discarded because of: {OOM}": "OOM",
    "LOADING Redis is loading the dataset in memory": "LOADING",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MASTERDOWN",
    "CLUSTERDOWN The cluster is down": "CLUSTERDOWN",
    "CLUSTERDOWN Hash slot not served": "CLUSTERDOWN",
    "TRYAGAIN Multiple keys request during rehashing of slot": "TRYAGAIN",
    "MOVED 3999 127.0.0.1:6381": "MOVED",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": "UNBLOCKED",
    "NOAUTH Authentication required.": "NOAUTH",
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH ...": "NOAUTH",
    "WRONGPASS invalid username-password pair or user is disabled.": "WRONGPASS",
    "NOPERM this user has no permissions to run the 'set' command or its subcommand": "NOPERM",
    "NOPERM User u has no permissions to run the 'set' command": "NOPERM",
    "NOPERM No permissions to access a key": "NOPERM",
    f"{IN_6}@user_script: 1: The user executing the script can't run this command or subcommand": "NOPERM",
    f"ERR The user executing the script can't publish to the channel mentioned in the command{IN_7}": "NOPERM",
    f"ERR ACL failure in script: No permissions to access a channel{IN_9}": "NOPERM",
    "ERR max number of clients reached": "MAXCLIENTS",
    "ERR max number of clients + cluster connections reached": "MAXCLIENTS",
    "ERR max daily request limit exceeded. Limit: 10000": "MAXCLIENTS",
    f"ERR Script killed by user with SCRIPT KILL...{IN_7}": "KILLED",
    f"{IN_6}Script killed by user with SCRIPT KILL...": "KILLED",
    "ERR problem with LDAP service": "LDAP",
    "upstream failure": "PROXY",
    "no upstream host": "PROXY",
    "ERR Connection refused": "PROXY",
    "SOMETHINGNEW that a later version says": "SOMETHINGNEW",
}

OUR_FAULT = (
    "ERR unknown command 'FOO', with args beginning with: 'x' ",
    "ERR unknown command `FOO`, with args beginning with: `x`, ",
    "ERR wrong number of arguments for 'get' command",
    "ERR value is not an integer or out of range",
    "ERR syntax error",
    "ERR Error compiling script (new function): user_script:1: unexpected symbol near '<eof>'",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    f"WRONGTYPE Operation against a key holding the wrong kind of value{IN_7}",
    f"{IN_6}WRONGTYPE Operation against a key holding the wrong kind of value",
    f"{IN_6}@user_script: 1: Unknown Redis command called from Lua script",
    f"{IN_6}@user_script: 1: Wrong number of args calling Redis command From Lua script",
    f"{IN_6}user_script:1: attempt to perform arithmetic on a nil value",
    f"ERR Unknown Redis command called from script{IN_7}",
    f"ERR user_script:1: attempt to perform arithmetic on a nil value{IN_9}",
    "NOSCRIPT No matching script. Please use EVAL.",
    "EXECABORT Transaction discarded because of previous errors.",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "BUSYGROUP Consumer Group name already exists",
    "ERR invalid stream ID: it says OOM command not allowed",
)


@pytest.mark.parametrize(("reply", "code"), NOT_NOW.items())
def test_a_refusal_that_passes_is_not_now_with_its_code_in_whatever_words_it_comes(reply: str, code: str) -> None:
    error = Parser(1).parse_error(reply)

    assert isinstance(error, NotNow)
    assert error.code == code
    assert is_away(error)
    assert error.reason.startswith(f"{code} ")
    assert "user_script" not in error.reason


@pytest.mark.parametrize("reply", OUR_FAULT)
def test_what_would_be_refused_at_any_time_is_not(reply: str) -> None:
    error = Parser(1).parse_error(reply)

    assert isinstance(error, redis.exceptions.ResponseError)
    assert not is_away(error)


@pytest.mark.parametrize("reply", [*NOT_NOW, *OUR_FAULT])
def test_an_error_of_redis_pys_own_parser_is_told_apart_the_same_way(reply: str) -> None:
    error = _HiredisParser.parse_error(reply)
    if isinstance(error, redis.exceptions.ResponseError):
        error.args = (f"Command # 1 (HSET k {MISCONF}) of pipeline caused error: {error.args[0]}",)

        assert is_away(error) == (reply in NOT_NOW)
    else:  # redis-py makes a ConnectionError of it
        assert is_away(error)


def test_what_a_caller_is_told_holds_nothing_of_what_was_asked() -> None:
    error = refusal(MISCONF)
    assert error is not None
    error.args = (f"Command # 1 (HSET secret) of pipeline caused error: {MISCONF}",)  # as a pipeline does

    assert why(error) == f"refuses: {MISCONF}"


def test_each_command_of_a_script_is_tried_at_start() -> None:
    text = "".join(path.read_text() for path in FOLDER.glob("*.lua"))
    used = set(re.findall(r'(?:call|try|write|those)\("([A-Z]+)"', text))

    assert used - set(ON_KEYS) - {other[0] for other in OTHERS} - {"PUBLISH"} == set()
