-- Stands before every script, after the prefixes RQ, SERVICE and CHANNELS (scripts.py): no key is built without one.
-- Scripts about one job start their KEYS with keys.lifecycle(job_id):
--   1 job hash   2 events stream   3 known string   4 results stream   5 dependents set   6 dependencies set
--
-- Lua has no rollback, and a write may be refused (by an ACL, by a key of another type) after others were made. So the
-- write that decides comes first, with `call`, then `decided`: nothing that follows can fail the script, and what it
-- leaves undone is put right by the recovery loop (a place in a list) or by who reads (an event). `try` never fails.

local try, call = redis.pcall, redis.call
local function decided() call = redis.pcall end
local function undecided() call = redis.call end

local WAKE, SUBMITTED = CHANNELS .. ":wake", CHANNELS .. ":submitted"

-- The time is Redis's: that of each host is its own. Unix seconds, and microseconds of the second.
local SECOND, MICROSECOND = unpack(redis.call("TIME"))
local NOW = SECOND + MICROSECOND / 1000000

-- A unix time as `2026-01-31T12:00:00`. Source: H. Hinnant, civil_from_days.
local function iso(second)
  local days, rest = math.floor(second / 86400) + 719468, second % 86400
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format("%04d-%02d-%02dT%02d:%02d:%02d", year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60)
end

-- A unix time, or now, as RFC 3339 with milliseconds.
local function rfc3339(unix)
  if not unix then return string.format("%s.%03dZ", iso(SECOND), math.floor(MICROSECOND / 1000)) end
  return string.format("%s.%03dZ", iso(math.floor(unix)), math.floor(unix % 1 * 1000))
end

-- Now, as RQ writes it.
local function rq_now() return string.format("%s.%06dZ", iso(SECOND), MICROSECOND) end

-- keys.lifecycle of a job that is known here by its id only.
local function lifecycle(id)
  local job, own = RQ .. ":job:" .. id, SERVICE .. ":job:" .. id
  return {job, own .. ":events", own .. ":known", RQ .. ":results:" .. id, job .. ":dependents",
    RQ .. ":job::" .. id .. ":dependencies"}
end

local function id_of(job) return string.sub(job, #RQ + 6) end

local function queue_key(name) return RQ .. ":queue:" .. name end

local function registry(status, queue) return RQ .. ":" .. status .. ":" .. queue end

-- Write to a key that many jobs share, or to a stream. If somebody has made something else of it, that is kept under
-- another name and the key goes on empty: it must not keep a job from going on.
local function write(command, key, ...)
  local answer = try(command, key, ...)
  if type(answer) ~= "table" or not answer.err then return answer end
  if string.find(answer.err, "WRONGTYPE", 1, true) then try("RENAME", key, key .. ":unreadable") end
  return call(command, key, ...)
end

local function append_to(stream, limit, ...) return write("XADD", stream, "MAXLEN", "~", limit, "*", ...) end

-- Append one event to a job's log and tell its watchers. Published after XADD, in the same script:
-- a watcher that is woken finds the entry. The message carries all of it, so nobody reads it again.
local function emit(stream, limit, kind, data)
  local id = append_to(stream, limit, "type", kind, "data", data)
  if type(id) ~= "string" then return nil end
  try("PUBLISH", CHANNELS .. string.sub(stream, #SERVICE + 1), id .. " " .. kind .. " " .. data)
  return id
end

-- The job is over: all that is its own (keys.lifecycle) expires after `ttl` seconds, the memory of its id later.
local function keep_for(lifecycle, ttl, tombstone_ttl)
  for _, i in ipairs({1, 2, 4, 5, 6}) do call("EXPIRE", lifecycle[i], ttl) end
  call("EXPIRE", lifecycle[3], ttl + tombstone_ttl)
end

-- Whether `member` of the started registry still holds its lease; with `ended`, whether that has passed.
local function holds(wip, member, ended)
  local lease = call("ZSCORE", wip, member)
  return lease and (ended == "" or tonumber(lease) <= NOW)
end

-- Forget one execution, as RQ's Execution.delete does.
local function close_execution(wip, member, execution, executions, execution_id, worker_executions)
  call("ZREM", wip, member)
  call("DEL", execution)
  try("ZREM", executions, execution_id)
  try("SREM", worker_executions, member)
end

-- The channel on which a worker hears that a job is to be stopped: of RQ's own workers RQ's.
local function commands_of(worker)
  if try("HEXISTS", RQ .. ":worker:" .. worker, "draining") == 1 then
    return CHANNELS .. ":worker:" .. worker .. ":commands"
  end
  return RQ .. ":pubsub:" .. worker
end

-- What a command finds; nothing if the key is of another type than it should be.
local function those(...)
  local found = try(...)
  return type(found) == "table" and not found.err and found or {}
end

-- 1 if a job with this status should have started by its deadline, and did not.
local function is_late(status, deadline)
  local waits = status == "queued" or status == "scheduled"
  return waits and (tonumber(deadline or "") or math.huge) <= NOW and 1 or 0
end

-- A ttl that a job's hash says, in seconds, if it is one that Redis takes; else the service's.
local function ttl_of(text, default)
  local ttl = tonumber(text or "") or 0
  return ttl >= 1 and ttl <= 315360000 and math.floor(ttl) or tonumber(default)
end

-- Whether a living worker serves a model, by what is in its keys.serving; with `version`, whether in that version.
local function is_served(serving, version)
  local reports = those("HGETALL", serving)
  for i = 2, #reports, 2 do
    local good, report = pcall(cjson.decode, reports[i])
    if good and type(report) == "table" and (tonumber(report["until"]) or 0) > NOW
      and (not version or report.version == version) then return true end
  end
  return false
end

-- What `step` returns, or `otherwise` if it meets a key or a value that is not what it should be: among many jobs that
-- is one's own trouble. What Redis refuses for now (it is full, read only, ...) is everybody's.
local function of_one(otherwise, step, ...)
  local good, answer = pcall(step, ...)
  if good then return answer end
  local text = type(answer) == "table" and answer.err or tostring(answer)
  for _, own in ipairs({"WRONGTYPE", "not an integer", "not a valid float", "invalid expire"}) do
    if string.find(text, own, 1, true) then return otherwise end
  end
  -- With its code in front, as Redis itself would raise it: 7 does so for a table, 6.2 knows only strings.
  return error(redis.REDIS_VERSION and {err = text} or text, 0)
end
