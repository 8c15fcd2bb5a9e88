-- One turn of a worker's loop, in one round trip: append events of its running jobs, end those that are over,
-- take new ones and record that they started. There is no moment in which a job is in no list.
-- KEYS  1 keys.granted   2 worker hash   3 worker_executions set   4 keys.SUSPENDED   5 keys.START_DEADLINES
--       6 keys.PAUSED   7 keys.APART
-- ARGV  read from left to right, see below; a list has its length before it: `<job id>:<execution id>` of those
--       that waited and have begun; appends; ends; queues to take from.
-- Returns {1 or 0 for each append, 1, 2 or 0 for each end, jobs taken, "suspended", "again", "empty" or "", now (unix)}:
--   0 the execution is no longer the job's   2 other jobs wait for this one   again: many dead ids met
--   empty: nothing is left in the queues to take from
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

local turn, worker, lease, max_events, tombstone_ttl = arg(), arg(), arg(), arg(), arg()
local worker_json = arg()
local holding = arg()  -- "" if this worker holds no other job than those that end here
local running = arg()  -- "" if what is taken first from the main lane's queues begins at once

-- job id, execution id, queue, number of this append within the execution, latest meta (JSON) or "", type, data ...
local function append(id, execution, queue, number, meta, first, last)
  local member = id .. ":" .. execution
  if not holds(registry("wip", queue), member, "") then return 0 end
  local hash = RQ .. ":execution:" .. member
  if (tonumber(call("HGET", hash, "appended") or "") or 0) >= number then return 1 end
  for i = first, last, 2 do
    emit(SERVICE .. ":job:" .. id .. ":events", max_events, ARGV[i], ARGV[i + 1])
    decided()
  end
  call("HSET", hash, "appended", number)
  if meta ~= "" then call("HSET", RQ .. ":job:" .. id, "meta", meta) end
  return 1
end

-- job id, execution id, queue, "" or "1" if its lease must have ended, status, number of the attempt,
-- attempt (JSON without its braces, number and end), ttl, when it started (unix), data of the event,
-- fields of the job ..., fields of the result ...
local function has_dependents(key)
  local count = try("SCARD", key)
  return type(count) == "number" and count > 0
end

local good, bad, worked = 0, 0, 0
local function finish(id, execution, queue, ended, status, number, attempt, ttl, started, data, fields, last_field,
    result, last_result)
  local own, member = lifecycle(id), id .. ":" .. execution
  local was = call("HMGET", own[1], "ended_execution", "status")
  if was[1] == execution and was[2] == status then  -- this very call was made before
    return has_dependents(own[5]) and 2 or 1
  end
  local wip = registry("wip", queue)
  if not holds(wip, member, ended) then return 0 end
  local executions = RQ .. ":executions:" .. id
  if call("EXISTS", own[1]) == 0 then  -- erased while it ran: do not bring half of it back
    close_execution(wip, member, RQ .. ":execution:" .. member, executions, execution, KEYS[3])
    return 0
  end
  -- The worker's clock may be ahead of ours by as long as an answer takes: nothing is acknowledged after its end.
  for i = fields, last_field - 1, 2 do
    if ARGV[i] == "cancel_acknowledged_at" and ARGV[i + 1] > rfc3339() then ARGV[i + 1] = rfc3339() end
  end
  call("HSET", own[1], "status", status, "ended_execution", execution,
    "ended_at", rq_now(), "last_heartbeat", rq_now(), "attempt:" .. number,
    '{"number":' .. number .. "," .. attempt .. ',"ended_at":"' .. rfc3339() .. '"}', unpack(ARGV, fields, last_field))
  decided()
  close_execution(wip, member, RQ .. ":execution:" .. member, executions, execution, KEYS[3])
  call("HDEL", own[1], "start_deadline")  -- `rq requeue` may bring it back, and it would be late then
  append_to(own[4], 10, "execution_ended_at", string.format("%.6f", NOW), unpack(ARGV, result, last_result))
  try("ZADD", registry(status == "finished" and "finished" or "failed", queue), NOW + ttl, id)
  change(own, max_events, status, data)
  keep_for(own, ttl, tombstone_ttl)
  if status == "finished" then good = good + 1 else bad = bad + 1 end
  worked = worked + math.max(0, NOW - started)
  return has_dependents(own[5]) and 2 or 1
end

-- {job id, queue, execution id, fields, 1 if it waits for others to end, version that runs it (JSON)}
local function told(id, queue, execution, waits, version)
  local fields = redis.call("HMGET", RQ .. ":job:" .. id, "data", "model", "timeout", "retries_left", "priority",
    "created_at", "result_ttl", "failure_ttl", "attempts", "retries", "retry_policy", "crashes", "start_deadline",
    "secrets", "metadata", "version")
  return {id, queue, execution, fields, waits, version}
end

-- The version that the latest attempt of a job says, as JSON.
local function version_of_attempt(id)
  local job = RQ .. ":job:" .. id
  local good, attempt = pcall(cjson.decode, call("HGET", job, "attempt:" .. (call("HGET", job, "attempts") or "")) or "")
  return good and type(attempt) == "table" and type(attempt.version) == "string" and cjson.encode(attempt.version)
    or "null"
end

local taken = {}
local function start(id, queue, version, waits, apart)
  local execution = turn .. "-" .. #taken + 1
  local job, own, member = RQ .. ":job:" .. id, SERVICE .. ":job:" .. id, id .. ":" .. execution
  local hash, executions = RQ .. ":execution:" .. member, RQ .. ":executions:" .. id
  local began, began_rq = rfc3339(), rq_now()
  -- `lease` tells the recovery loop how far in the future it may end.
  call("HSET", hash, "id", execution, "job_id", id, "created_at", NOW, "last_heartbeat", NOW,
    "worker_name", worker, "lease", lease)
  -- If this worker dies before it says that the job began, the job is queued again as if nothing had been.
  if waits == 1 then call("HSET", hash, "waiting", 1) end
  call("EXPIRE", hash, lease * 2)
  call("ZADD", registry("wip", queue), NOW + lease, member)
  local number = (tonumber(call("HGET", job, "attempts") or "") or 0) + 1
  call("HSET", job, "attempts", number, "status", "started", "started_at", began_rq, "last_heartbeat", began_rq,
    "worker_name", worker, "attempt:" .. number, '{"number":' .. number .. ',"worker":' .. worker_json ..
    ',"version":' .. version .. ',"started_at":"' .. began .. '","error":null,"ended_at":null}')
  decided()
  if apart then
    call("ZREM", apart, id)
    call("ZREM", registry("scheduled", queue), id)
  else
    call("LPOP", queue_key(queue))
  end
  call("ZADD", executions, NOW + lease + 60, execution)
  call("EXPIRE", executions, lease + 60)
  call("SADD", KEYS[3], member)
  -- A job that `rq requeue` brought back carries these from its earlier end.
  call("HDEL", job, "error", "cancel_requested_at", "cancel_acknowledged_at", "cancel_mode")
  for _, key in ipairs({job, own .. ":events", own .. ":known"}) do call("PERSIST", key) end
  try("ZREM", KEYS[5], id)
  change({job, own .. ":events"}, max_events, "started", '{"attempt":' .. number .. ',"worker":' .. worker_json .. "}")
  taken[#taken + 1] = told(id, queue, execution, waits, version)
end

-- One that is refused stays where it is. After others that were taken it is left to the next turn.
local left = false
local function try_start(id, queue, waits, apart)
  undecided()
  if #taken == 0 then
    start(id, queue.name, queue.version, waits, apart)
    return true
  end
  local started = pcall(start, id, queue.name, queue.version, waits, apart)
  left = left or not started
  return started
end

-- Whether this queue's registry can take a lease: a job is not taken without one.
local leasable = {}
local function can_lease(queue)
  if leasable[queue] == nil then leasable[queue] = type(try("ZCARD", registry("wip", queue))) == "number" end
  return leasable[queue]
end

local looked = 0
local function first_of(queue)
  local id = try("LINDEX", queue_key(queue), 0)
  return type(id) == "string" and id
end

-- Whether workers with other code have refused jobs lately, which wait for one with theirs (apart.lua).
local some_apart = false
local function take_apart(queue, waits)
  local key = SERVICE .. ":apart:" .. queue.name .. ":" .. queue.version
  for _ = 1, 100 do
    local id = those("ZRANGE", key, 0, 0)[1]
    if not id then return false end
    local state = those("HMGET", RQ .. ":job:" .. id, "status", "start_deadline", "waits_for")
    if state[1] == "scheduled" and state[3] and is_late(state[1], state[2]) == 0 then
      return try_start(id, queue, waits, key)
    end
    try("ZREM", key, id)
  end
  return false
end

local function take(queue, waits)
  if not can_lease(queue.name) then return false end
  if some_apart and take_apart(queue, waits) then return true end
  local id = first_of(queue.name)
  while id do
    local job = RQ .. ":job:" .. id
    if string.find(id, "^[%w_-]+$") and call("TYPE", job).ok == "hash" then
      local state = call("HMGET", job, "status", "start_deadline")
      -- Skipped: erased, canceled, twice in the list; or it waited too long, and expire.lua ends it.
      local late = (tonumber(state[2] or "inf") or math.huge) <= NOW
      if state[1] == "queued" and not late then return try_start(id, queue, waits) end
    end
    looked = looked + 1
    undecided()
    call("LPOP", queue_key(queue.name))
    if looked >= 1000 then return false end
    id = first_of(queue.name)
  end
  return false
end

-- One job of each queue of a priority in turn, until the lanes are full or the queues empty. A queue says: its
-- priority, its lane, its model, what the first job of the model and each further one takes of the lane's room of
-- 1, how many jobs of the model there may be, and the version of the model here (JSON).
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
          if take(queue, waits) then
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
      local length = not queue.empty and try("LLEN", queue_key(queue.name))
      if type(length) == "number" and length > 0 then closed[queue.lane], left = true, true end
      left = left or (some_apart and not queue.empty)
    end
    first = last + 1
  end
end

local function next_append()
  undecided()
  local id, execution, queue, number, meta = arg(), arg(), arg(), tonumber(arg()), arg()
  return of_one(0, append, id, execution, queue, number, meta, list())
end

local function next_finish()
  undecided()
  local id, execution, queue, ended, status = arg(), arg(), arg(), arg(), arg()
  local number, attempt, ttl, started, data = arg(), arg(), arg(), tonumber(arg()), arg()
  local field, last_field = list()
  return of_one(0, finish, id, execution, queue, ended, status, number, attempt, ttl, started, data, field, last_field,
    list())
end

local appended, ended, state = {}, {}, ""
for _ = 1, tonumber(arg()) do try("HDEL", RQ .. ":execution:" .. arg(), "waiting") end
for i = 1, tonumber(arg()) do appended[i] = next_append() end
for i = 1, tonumber(arg()) do ended[i] = next_finish() end
local queues = {}
for i = 1, tonumber(arg()) do
  queues[i] = {name = arg(), priority = arg(), lane = arg(), model = arg(), first = tonumber(arg()),
    further = tonumber(arg()), most = tonumber(arg()), version = arg()}
end

local prior = try("GET", KEYS[1])
if type(prior) == "string" and string.sub(prior, 1, #turn) == turn then  -- this very call was made before
  local number = 0
  for queue, id in string.gmatch(string.sub(prior, #turn + 2), "(%S+) (%S+)") do
    number = number + 1
    local execution = turn .. "-" .. number
    -- Unless the answer took so long that the job was given to another meanwhile.
    if holds(registry("wip", queue), id .. ":" .. execution, "") then
      local hash = RQ .. ":execution:" .. id .. ":" .. execution
      taken[#taken + 1] = told(id, queue, execution, call("HEXISTS", hash, "waiting"), version_of_attempt(id))
    end
  end
elseif #queues > 0 then
  if call("EXISTS", KEYS[4]) == 1 then
    state = "suspended"
  else
    local paused = {}
    for _, name in ipairs(try("SMEMBERS", KEYS[6])) do paused[name] = true end
    -- As if it were empty: what waits in it keeps nothing of a lower priority from overtaking it.
    for _, queue in ipairs(queues) do queue.empty = paused[queue.name] end
    some_apart = try("EXISTS", KEYS[7]) == 1
    take_all(queues)
    state = looked >= 1000 and "again" or not left and "empty" or ""
  end
  if #taken > 0 then
    local granted = turn
    for _, each in ipairs(taken) do granted = granted .. " " .. each[2] .. " " .. each[1] end
    try("SET", KEYS[1], granted, "EX", 3600)
    try("EXPIRE", KEYS[3], lease * 4)
  end
end

-- Only if the worker lives: a hash that has expired must not come back without an end.
local was = try("HGET", KEYS[2], "state")
if type(was) == "string" then
  if #taken > 0 then try("HSET", KEYS[2], "state", "busy")
  elseif holding == "" and was == "busy" then try("HSET", KEYS[2], "state", "idle") end
  if good > 0 then try("HINCRBY", KEYS[2], "successful_job_count", good) end
  if bad > 0 then try("HINCRBY", KEYS[2], "failed_job_count", bad) end
  if good + bad > 0 then try("HINCRBYFLOAT", KEYS[2], "total_working_time", worked) end
end
return {appended, ended, taken, state, string.format("%.6f", NOW)}
