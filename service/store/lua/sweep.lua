-- Look at some entries of an index: take jobs out when they themselves have gone, and find those that are in no list.
-- KEYS  1 index, a sorted set
-- ARGV  1 tombstone ttl   2 seconds after which a job that is found in no list twice is put back   3... job ids
-- Returns {how many have gone, ids that were put back ...}. The keys of the jobs are not declared, as in turn.lua.
local gone, back = 0, {}

local function is_gone(id)
  local own = lifecycle(id)
  if call("EXISTS", own[1]) == 1 then return false end
  call("ZREM", KEYS[1], id)
  -- Somebody deleted the hash only (rq-dashboard, Job.delete): the rest would stay for ever.
  call("DEL", own[2], own[4], own[5], own[6])
  if call("TTL", own[3]) == -1 then call("EXPIRE", own[3], ARGV[1]) end
  return true
end

local function has_lease(id, queue)
  for _, execution in ipairs(call("ZRANGE", RQ .. ":executions:" .. id, 0, -1)) do
    if call("ZSCORE", registry("wip", queue), id .. ":" .. execution) then return true end
  end
  return false
end

-- Whether a job is where its status says that it is. RQ's own workers have theirs in the intermediate list for a while.
local function is_placed(id, status, queue)
  if status == "queued" then
    return call("LPOS", queue_key(queue), id) or call("LPOS", queue_key(queue) .. ":intermediate", id)
  elseif status == "scheduled" then
    return call("ZSCORE", registry("scheduled", queue), id)
  end
  return status ~= "started" or has_lease(id, queue)
end

local function put_back(id)
  local job = RQ .. ":job:" .. id
  local state = call("HMGET", job, "status", "origin", "unplaced_at", "ended_execution", "scheduled_at")
  if not state[1] or not state[2] then return end
  if is_placed(id, state[1], state[2]) then
    if state[3] then call("HDEL", job, "unplaced_at") end
    return
  end
  local since = tonumber(state[3] or "")
  if not since or since > NOW then
    call("HSET", job, "unplaced_at", string.format("%.6f", NOW))
  elseif NOW - since >= tonumber(ARGV[2]) then
    call("HDEL", job, "unplaced_at")
    back[#back + 1] = id
    if state[1] == "queued" then
      write("LPUSH", queue_key(state[2]), id)
      try("PUBLISH", WAKE, state[2])
    elseif state[1] == "scheduled" then
      write("ZADD", registry("scheduled", state[2]), tonumber(state[5] or "") or NOW, id)
    else
      -- As one whose worker has died: the recovery loop takes it back.
      write("ZADD", registry("wip", state[2]), NOW, id .. ":unplaced-" .. SECOND)
    end
  end
end

for i = 3, #ARGV do
  if is_gone(ARGV[i]) then gone = gone + 1 else of_one(nil, put_back, ARGV[i]) end
end
return {gone, unpack(back)}
