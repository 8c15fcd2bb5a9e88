-- One turn of a worker's loop, in one round trip: append events of its running jobs, end those that are over,
-- take new ones and record that they started. There is no moment in which a job is in no list.
-- KEYS  1 keys.granted   2 worker hash   3 worker_executions set   4 keys.SUSPENDED   5 keys.START_DEADLINES
--       6 keys.PAUSED
-- ARGV  read from left to right, see below; a list has its length before it: `<job id>:<execution id>` of those
--       that waited and have begun; appends; ends; queues to take from.
-- Returns {1 or 0 for each append, 1, 2 or 0 for each end, jobs taken, "suspended", "again" or ""}:
--   0 the execution is no longer the job's   2 other jobs wait for this one   again: many dead ids met
-- Each part may be sent twice. Keys of jobs are not declared: those to be taken are known only here.
local place = 0
local function arg()
  place = place + 1
  return ARGV[place]
end
local function list()
  local first, length = place + 2, tonumber(arg())
  place = place + length
  return first, place
end

local turn, worker, now, now_rq, lease = arg(), arg(), arg(), arg(), arg()
local prefix, max_events, tombstone_ttl = arg(), arg(), arg()
local attempt, worker_json = arg(), arg()  -- of a started attempt: JSON without its braces and number
local holding = arg()  -- "" if this worker holds no other job than those that end here
local running = arg()  -- "" if what is taken first from the main lane's queues begins at once

-- job id, execution id, queue, number of this append within the execution, latest meta (JSON) or "", type, data ...
local function append()
  local id, execution, queue, number, meta = arg(), arg(), arg(), tonumber(arg()), arg()
  local first, last = list()
  local member = id .. ":" .. execution
  if not holds(prefix .. ":wip:" .. queue, member, "") then return 0 end
  local hash = prefix .. ":execution:" .. member
  if tonumber(redis.call("HGET", hash, "appended") or 0) >= number then return 1 end
  redis.call("HSET", hash, "appended", number)
  if meta ~= "" then redis.call("HSET", prefix .. ":job:" .. id, "meta", meta) end
  for i = first, last, 2 do emit("service:job:" .. id .. ":events", max_events, ARGV[i], ARGV[i + 1]) end
  return 1
end

-- job id, execution id, queue, "" or the time by which its lease must have ended, status, number of the attempt,
-- attempt (JSON without its braces and number), ttl, seconds worked, data of the event, fields of the job ...,
-- fields of the result ...
local good, bad, worked = 0, 0, 0
local function finish()
  local id, execution, queue, before, status = arg(), arg(), arg(), arg(), arg()
  local number, ended, ttl, seconds, data = arg(), arg(), arg(), tonumber(arg()), arg()
  local fields, last_field = list()
  local result, last_result = list()
  local own, member = lifecycle(prefix, id), id .. ":" .. execution
  local was = redis.call("HMGET", own[1], "ended_execution", "status")
  if was[1] == execution and was[2] == status then  -- this very call was made before
    return redis.call("EXISTS", own[5]) == 1 and 2 or 1
  end
  local wip = prefix .. ":wip:" .. queue
  if not holds(wip, member, before) then return 0 end
  close_execution(wip, member, prefix .. ":execution:" .. member, prefix .. ":executions:" .. id, execution, KEYS[3])
  if redis.call("EXISTS", own[1]) == 0 then return 0 end  -- erased while it ran: do not bring half of it back
  redis.call("HSET", own[1], "status", status, "ended_execution", execution,
    "attempt:" .. number, '{"number":' .. number .. "," .. ended .. "}", unpack(ARGV, fields, last_field))
  redis.call("XADD", own[4], "MAXLEN", "~", 10, "*", unpack(ARGV, result, last_result))
  local registry = status == "finished" and ":finished:" or ":failed:"
  redis.call("ZADD", prefix .. registry .. queue, now + ttl, id)
  change(own, max_events, status, data)
  keep_for(own, ttl, tombstone_ttl)
  if status == "finished" then good = good + 1 else bad = bad + 1 end
  worked = worked + seconds
  return redis.call("EXISTS", own[5]) == 1 and 2 or 1
end

-- {job id, queue, execution id, fields, 1 if it waits for others to end}
local function told(id, queue, execution, waits)
  local fields = redis.call("HMGET", prefix .. ":job:" .. id, "data", "model", "timeout", "retries_left", "priority",
    "created_at", "result_ttl", "failure_ttl", "attempts", "retries", "retry_policy", "crashes")
  return {id, queue, execution, fields, waits}
end

local taken = {}
local function start(id, queue, waits)
  local execution = turn .. "-" .. #taken + 1
  local job, own, member = prefix .. ":job:" .. id, "service:job:" .. id, id .. ":" .. execution
  local ends, hash, executions = now + lease, prefix .. ":execution:" .. member, prefix .. ":executions:" .. id
  redis.call("HSET", hash, "id", execution, "job_id", id, "created_at", now, "last_heartbeat", now,
    "worker_name", worker)
  -- If this worker dies before it says that the job began, the job is queued again as if nothing had been.
  if waits == 1 then redis.call("HSET", hash, "waiting", 1) end
  redis.call("EXPIRE", hash, lease * 2)
  redis.call("ZADD", executions, ends + 60, execution)
  redis.call("EXPIRE", executions, lease + 60)
  redis.call("ZADD", prefix .. ":wip:" .. queue, ends, member)
  redis.call("SADD", KEYS[3], member)
  local number = (tonumber(redis.call("HGET", job, "attempts") or 0) or 0) + 1
  redis.call("HSET", job, "attempts", number, "status", "started", "started_at", now_rq, "last_heartbeat", now_rq,
    "worker_name", worker, "attempt:" .. number, '{"number":' .. number .. "," .. attempt .. "}")
  -- A job that `rq requeue` brought back carries these from its earlier end; and it may be late by now.
  redis.call("HDEL", job, "error", "cancel_requested_at", "cancel_acknowledged_at", "cancel_mode", "start_deadline")
  for _, key in ipairs({job, own .. ":events", own .. ":known"}) do redis.call("PERSIST", key) end
  redis.call("ZREM", KEYS[5], id)
  change({job, own .. ":events"}, max_events, "started", '{"attempt":' .. number .. ',"worker":' .. worker_json .. "}")
  taken[#taken + 1] = told(id, queue, execution, waits)
end

local looked = 0
local function take(queue, waits)
  local key = prefix .. ":queue:" .. queue
  local id = redis.call("LPOP", key)
  while id do
    local job = prefix .. ":job:" .. id
    if redis.call("TYPE", job).ok == "hash" then
      local state = redis.call("HMGET", job, "status", "start_deadline")
      -- Skipped: erased, canceled, twice in the list; or it waited too long, and expire.lua ends it.
      local late = (tonumber(state[2] or "inf") or math.huge) <= tonumber(now)
      if state[1] == "queued" and not late then return start(id, queue, waits) or true end
    end
    looked = looked + 1
    if looked >= 1000 then return false end
    id = redis.call("LPOP", key)
  end
  return false
end

-- One job of each queue of a priority in turn, until the lanes are full or the queues empty. A queue says: its
-- priority, its lane, its model, what the first job of the model and each further one takes of the lane's room of
-- 1, and how many jobs of the model there may be.
local used, counts, closed = {}, {}, {}
local function fits(queue)
  if closed[queue.lane] then return false end
  local count, room = counts[queue.model] or 0, used[queue.lane] or 0
  local cost = count == 0 and queue.first or queue.further
  -- A whole lane is free for the first, whatever it takes.
  if count >= queue.most or (room > 0 and room + cost > 1.000001) then return false end
  return cost
end

local function take_all(queues)
  local first = 1
  while first <= #queues do
    local last = first
    while queues[last + 1] and queues[last + 1].priority == queues[first].priority do last = last + 1 end
    local found = true
    while found and looked < 1000 do
      found = false
      for i = first, last do
        local queue = queues[i]
        local cost = not queue.empty and fits(queue)
        if cost then
          local waits = queue.lane == "main" and (running ~= "" or (used.main and cost > 0)) and 1 or 0
          if take(queue.name, waits) then
            counts[queue.model] = (counts[queue.model] or 0) + 1
            used[queue.lane] = (used[queue.lane] or 0) + cost
            found = true
          else
            queue.empty = true
          end
        end
      end
    end
    -- What is left of this priority did not fit: smaller ones of lower priorities must not overtake it.
    for i = first, last do
      local queue = queues[i]
      if not queue.empty and redis.call("LLEN", prefix .. ":queue:" .. queue.name) > 0 then
        closed[queue.lane] = true
      end
    end
    first = last + 1
  end
end

local appended, ended, state = {}, {}, ""
for _ = 1, tonumber(arg()) do redis.call("HDEL", prefix .. ":execution:" .. arg(), "waiting") end
for i = 1, tonumber(arg()) do appended[i] = append() end
for i = 1, tonumber(arg()) do ended[i] = finish() end
local queues = {}
for i = 1, tonumber(arg()) do
  queues[i] = {name = arg(), priority = arg(), lane = arg(), model = arg(), first = tonumber(arg()),
    further = tonumber(arg()), most = tonumber(arg())}
end

local prior = redis.call("GET", KEYS[1])
if prior and string.sub(prior, 1, #turn) == turn then  -- this very call was made before
  local number = 0
  for queue, id in string.gmatch(string.sub(prior, #turn + 2), "(%S+) (%S+)") do
    number = number + 1
    local execution = turn .. "-" .. number
    -- Unless the answer took so long that the job was given to another meanwhile.
    if holds(prefix .. ":wip:" .. queue, id .. ":" .. execution, "") then
      local waits = redis.call("HEXISTS", prefix .. ":execution:" .. id .. ":" .. execution, "waiting")
      taken[#taken + 1] = told(id, queue, execution, waits)
    end
  end
elseif #queues > 0 then
  if redis.call("EXISTS", KEYS[4]) == 1 then
    state = "suspended"
  else
    local paused = {}
    for _, name in ipairs(redis.call("SMEMBERS", KEYS[6])) do paused[name] = true end
    -- As if it were empty: what waits in it keeps nothing of a lower priority from overtaking it.
    for _, queue in ipairs(queues) do queue.empty = paused[queue.name] end
    take_all(queues)
    if looked >= 1000 then state = "again" end
  end
  if #taken > 0 then
    local granted = turn
    for _, each in ipairs(taken) do granted = granted .. " " .. each[2] .. " " .. each[1] end
    redis.call("SET", KEYS[1], granted, "EX", 3600)
    redis.call("EXPIRE", KEYS[3], lease * 4)
  end
end

-- Only if the worker lives: a hash that has expired must not come back without an end.
local was = redis.call("HGET", KEYS[2], "state")
if was then
  if #taken > 0 then redis.call("HSET", KEYS[2], "state", "busy")
  elseif holding == "" and was == "busy" then redis.call("HSET", KEYS[2], "state", "idle") end
  if good > 0 then redis.call("HINCRBY", KEYS[2], "successful_job_count", good) end
  if bad > 0 then redis.call("HINCRBY", KEYS[2], "failed_job_count", bad) end
  if good + bad > 0 then redis.call("HINCRBYFLOAT", KEYS[2], "total_working_time", worked) end
end
return {appended, ended, taken, state}
