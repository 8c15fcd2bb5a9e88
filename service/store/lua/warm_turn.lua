-- One turn of a warm worker: end the job it has run, then take and start its next one. There is no moment between.
-- KEYS  1 turn hash of the worker   2 worker hash   3 worker_executions set   4 flag rq:suspended
--       5-12 of the job that ended, or eight times "": job hash, results stream, dependents, dependencies,
--       execution hash, wip, executions, finished registry
--       13... queue lists, in the order in which they are looked at
-- ARGV  1 id of the horse   2 number of the turn   3 "start" the next job, "hold" it in the intermediate list,
--       or "" for none   4 RQ's key prefix   5 that of the job class   6 worker name
--       7 execution id for the next job   8 now, unix   9 now, RQ's format: for show, by the worker's clock
--       10 job_monitoring_interval
--       11 "" or id of the job that ended   12 its execution id   13 result ttl   14 working time
--       15 started_at   16 ended_at   17... fields of the result
-- Returns {word, lost, job id, which queue, fields}; word is "job", or what stands in the way: "idle" (nothing is
--         queued), "suspended", "none" (not asked for), "again" (many dead ids met, ask again), "fenced" (the horse
--         was given up), "dependents" (nothing done: other jobs wait for the one that ended). lost is 1 if that
--         one was no longer this horse's to end.
-- The keys of the job that is taken cannot be declared: its id is known only here.
local prefix, job_prefix = ARGV[4], ARGV[5]
-- Leases and ends of life are judged by other hosts: no clock but Redis's own is all of theirs.
local now = tonumber(SECOND)

-- Only if the worker is there: a write would bring an expired hash back without an end.
local registered = redis.call("EXISTS", KEYS[2]) == 1
local last = redis.pcall("HMGET", KEYS[1], "horse", "turn", "job", "queue", "lost")
if last[1] ~= ARGV[1] then return {"fenced"} end

local lost = 0
if last[2] == ARGV[2] then  -- this very call was made before, and its answer did not arrive
  lost = tonumber(last[5])
  if last[3] ~= "" then
    return {"job", lost, last[3], tonumber(last[4]), redis.call("HGETALL", job_prefix .. last[3])}
  end
elseif ARGV[11] ~= "" then
  if redis.call("EXISTS", KEYS[7]) == 1 then return {"dependents"} end
  local member, ttl = ARGV[11] .. ":" .. ARGV[12], tonumber(ARGV[13])
  local status = redis.pcall("HGET", KEYS[5], "status")
  -- Deleted, or abandoned and given to somebody else. Job.cancel empties wip too, but there RQ's horse goes on.
  if type(status) ~= "string" or not (redis.pcall("ZSCORE", KEYS[10], member) or status == "canceled") then
    lost = 1
  elseif ttl == 0 then
    redis.call("DEL", KEYS[5], KEYS[6], KEYS[8], KEYS[11])
  else
    redis.call("HSET", KEYS[5], "status", "finished", "started_at", ARGV[15], "ended_at", ARGV[16],
      "last_heartbeat", ARGV[16])
    write("XADD", KEYS[6], "MAXLEN", "~", 10, "*", unpack(ARGV, 17))
    if ttl > 0 then
      for _, i in ipairs({5, 6, 8}) do redis.call("EXPIRE", KEYS[i], ttl) end
      write("ZADD", KEYS[12], now + ttl, ARGV[11])
    else
      redis.call("PERSIST", KEYS[6])
      write("ZADD", KEYS[12], "+inf", ARGV[11])
    end
  end
  redis.call("DEL", KEYS[9])
  redis.pcall("ZREM", KEYS[10], member)
  redis.pcall("ZREM", KEYS[11], ARGV[12])
  redis.pcall("SREM", KEYS[3], member)
  if lost == 0 and registered then
    redis.pcall("HINCRBY", KEYS[2], "successful_job_count", 1)
    redis.pcall("HINCRBYFLOAT", KEYS[2], "total_working_time", ARGV[14])
  end
end

local function remember(id, queue)
  redis.call("HSET", KEYS[1], "turn", ARGV[2], "job", id, "queue", queue, "lost", lost)
end

local function start(id, job, fields)
  local timeout, interval = tonumber(fields[2]) or 0, tonumber(ARGV[10])
  local ttl = (timeout > 0 and math.floor(math.min(timeout, interval)) or interval) + 60
  local member, origin = id .. ":" .. ARGV[7], fields[3] or ""
  local execution, executions = prefix .. ":execution:" .. member, prefix .. ":executions:" .. id
  redis.call("HSET", execution, "id", ARGV[7], "job_id", id, "created_at", ARGV[8], "last_heartbeat", ARGV[8],
    "worker_name", ARGV[6])
  redis.call("EXPIRE", execution, ttl)
  write("ZADD", executions, now + ttl + 60, ARGV[7])
  redis.call("EXPIRE", executions, ttl + 60)
  write("ZADD", prefix .. ":wip:" .. origin, now + ttl, member)
  write("SADD", KEYS[3], member)
  redis.call("EXPIRE", KEYS[3], ttl + 60)
  if registered and ARGV[11] == "" then  -- after another job it is busy already
    redis.call("HSET", KEYS[2], "state", "busy", "last_heartbeat", ARGV[9])
  end
  local status = fields[1] or "queued"
  -- One that RQ does not know stays: the horse must see that the job cannot be read.
  if status == "queued" or status == "created" then status = "started" end
  redis.call("HSET", job, "status", status, "started_at", ARGV[9], "last_heartbeat", ARGV[9],
    "worker_name", ARGV[6])
  redis.call("PERSIST", job)
end

-- Statuses of a job that has no business in a queue: canceled, ended, or twice in the list.
local elsewhere = {canceled = 1, finished = 1, failed = 1, stopped = 1, started = 1, deferred = 1, scheduled = 1,
  rate_limited = 1, ready_to_enqueue = 1}

-- The next id of a queue, if there is one; a key that is no list has none.
local function next_of(queue)
  local id = redis.pcall("LPOP", queue)
  return type(id) == "string" and id
end

local function take()
  local looked = 0
  for i = 13, #KEYS do
    local id = next_of(KEYS[i])
    while id do
      local job = job_prefix .. id
      local fields = redis.pcall("HMGET", job, "status", "timeout", "origin")
      -- RQ knows no other ids than these.
      local whole = string.find(id, "^[%w_-]+$") and not fields.err and redis.call("HEXISTS", job, "data") == 1
      if whole and not elsewhere[fields[1]] then
        if ARGV[3] == "start" then start(id, job, fields)
        else write("RPUSH", KEYS[i] .. ":intermediate", id) end
        remember(id, i - 12)
        return {"job", lost, id, i - 12, redis.call("HGETALL", job)}
      end
      looked = looked + 1
      if looked == 1000 then return {"again", lost} end
      id = next_of(KEYS[i])
    end
  end
  return {"idle", lost}
end

local answer = {"none", lost}
if ARGV[3] ~= "" then
  if redis.call("EXISTS", KEYS[4]) == 1 then answer = {"suspended", lost} else answer = take() end
end
if answer[1] ~= "job" then
  remember("", 0)
  if registered then redis.call("HSET", KEYS[2], "state", "idle") end
end
return answer
