-- Take the next job of a worker's queues and record that it started: there is no moment between.
-- KEYS  1 keys.granted   2 worker hash   3 worker_executions set   4 keys.SUSPENDED   5 keys.START_DEADLINES
--       6... queue lists, in the order in which they are looked at
-- ARGV  1 execution id   2 worker name   3 now, unix   4 now, RQ's format   5 lease, seconds   6 most events kept
--       7 RQ's key prefix   8 attempt, JSON without its braces and number   9 worker name, JSON
-- Returns false (nothing queued), "suspended", "again" (many dead ids met, ask again), or {job id, fields}.
-- The keys of the job that is found cannot be declared: its id is known only here.
local prefix = ARGV[7]

local prior = redis.call("GET", KEYS[1])
if prior and string.sub(prior, 1, #ARGV[1]) == ARGV[1] then  -- this very call was made before
  local id = string.sub(prior, #ARGV[1] + 2)
  local job = prefix .. ":job:" .. id
  local wip = prefix .. ":wip:" .. (redis.call("HGET", job, "origin") or "")
  -- Unless the answer took so long that the job was given to another meanwhile.
  if holds(wip, id .. ":" .. ARGV[1], "") then return {id, redis.call("HGETALL", job)} end
end
if redis.call("EXISTS", KEYS[4]) == 1 then return "suspended" end

local function start(id, job, queue)
  local member = id .. ":" .. ARGV[1]
  local ends = ARGV[3] + ARGV[5]
  local execution, executions = prefix .. ":execution:" .. member, prefix .. ":executions:" .. id
  redis.call("HSET", execution, "id", ARGV[1], "job_id", id, "created_at", ARGV[3], "last_heartbeat", ARGV[3],
    "worker_name", ARGV[2])
  redis.call("EXPIRE", execution, ARGV[5] * 2)
  redis.call("ZADD", executions, ends + 60, ARGV[1])
  redis.call("EXPIRE", executions, ARGV[5] + 60)
  redis.call("ZADD", prefix .. ":wip:" .. queue, ends, member)
  redis.call("SADD", KEYS[3], member)
  redis.call("HSET", KEYS[2], "state", "busy")
  local number = (tonumber(redis.call("HGET", job, "attempts") or 0) or 0) + 1
  redis.call("HSET", job, "attempts", number, "status", "started", "started_at", ARGV[4], "last_heartbeat", ARGV[4],
    "worker_name", ARGV[2], "attempt:" .. number, '{"number":' .. number .. "," .. ARGV[8] .. "}")
  -- A job that `rq requeue` brought back carries these from its earlier end; and it may be late by now.
  redis.call("HDEL", job, "error", "cancel_requested_at", "cancel_acknowledged_at", "cancel_mode", "start_deadline")
  local events = "service:job:" .. id .. ":events"
  for _, key in ipairs({job, events, "service:job:" .. id .. ":known"}) do redis.call("PERSIST", key) end
  redis.call("ZREM", KEYS[5], id)
  emit(events, ARGV[6], "started", '{"attempt":' .. number .. ',"worker":' .. ARGV[9] .. "}")
  redis.call("SET", KEYS[1], ARGV[1] .. " " .. id, "EX", 3600)
  return {id, redis.call("HGETALL", job)}
end

local looked = 0
for i = 6, #KEYS do
  local queue = string.sub(KEYS[i], #prefix + 8)
  local id = redis.call("LPOP", KEYS[i])
  while id do
    local job = prefix .. ":job:" .. id
    if redis.call("TYPE", job).ok == "hash" then
      local state = redis.call("HMGET", job, "status", "start_deadline")
      local deadline = tonumber(state[2] or "inf") or math.huge
      -- Skipped: erased, canceled, twice in the list; or it waited too long, and expire.lua ends it.
      if state[1] == "queued" and deadline > tonumber(ARGV[3]) then return start(id, job, queue) end
    end
    looked = looked + 1
    if looked == 1000 then return "again" end
    id = redis.call("LPOP", KEYS[i])
  end
end
return false
