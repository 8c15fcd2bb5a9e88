-- Stands before every script.
-- Scripts about one job start their KEYS with keys.lifecycle(job_id):
--   1 job hash   2 events stream (and channel)   3 known string   4 results stream
--   5 dependents set   6 dependencies set

-- keys.lifecycle of a job that is known here by its id only.
local function lifecycle(prefix, id)
  local job, own = prefix .. ":job:" .. id, "service:job:" .. id
  return {job, own .. ":events", own .. ":known", prefix .. ":results:" .. id, job .. ":dependents",
    prefix .. ":job::" .. id .. ":dependencies"}
end

-- Append one event to a job's log and tell its watchers. Published after XADD, in the same script:
-- a watcher that is woken finds the entry. The message carries all of it, so nobody reads it again.
local function emit(stream, limit, kind, data)
  local id = redis.call("XADD", stream, "MAXLEN", "~", limit, "*", "type", kind, "data", data)
  redis.call("PUBLISH", stream, id .. " " .. kind .. " " .. data)
  return id
end

-- The job is over: all that is its own (keys.lifecycle) expires after `ttl` seconds, the memory of its id later.
local function keep_for(lifecycle, ttl, tombstone_ttl)
  for _, i in ipairs({1, 2, 4, 5, 6}) do redis.call("EXPIRE", lifecycle[i], ttl) end
  redis.call("EXPIRE", lifecycle[3], ttl + tombstone_ttl)
end

-- Whether `member` of the started registry still holds its lease; with `before`, whether it ended by then.
local function holds(wip, member, before)
  local lease = redis.call("ZSCORE", wip, member)
  return lease and (before == "" or tonumber(lease) <= tonumber(before))
end

-- Forget one execution, as RQ's Execution.delete does.
local function close_execution(wip, member, execution, executions, execution_id, worker_executions)
  redis.call("ZREM", wip, member)
  redis.call("DEL", execution)
  redis.call("ZREM", executions, execution_id)
  redis.call("SREM", worker_executions, member)
end
