-- Clean up an intermediate list: a job that was taken and never started goes back to the front of its queue.
-- KEYS  1 intermediate list   2 queue list
-- ARGV  1 key prefix of the job class   2 seconds that a worker may need between taking and starting
-- Returns the ids that are queued again.
-- The keys of the jobs cannot be declared: their ids are known only here.
local now = tonumber(SECOND)  -- not the host's: whoever has seen a job here first may be on another
local returned = {}
for _, id in ipairs(redis.call("LRANGE", KEYS[1], 0, 999)) do
  local job = ARGV[1] .. id
  local status = redis.call("EXISTS", job) == 1 and (redis.call("HGET", job, "status") or "queued")
  -- Not RQ's own first_seen key: that one is never deleted, so it may tell of an earlier time in the list.
  local seen = KEYS[1] .. ":warm_seen:" .. id
  local since = tonumber(redis.call("GET", seen) or "")
  if status ~= "queued" and status ~= "created" then  -- started, ended or gone: it only was not taken off the list
    redis.call("LREM", KEYS[1], 1, id)
    redis.call("DEL", seen)
  elseif not since then
    redis.call("SET", seen, now, "EX", 3600)
  elseif now - since > tonumber(ARGV[2]) then
    redis.call("LREM", KEYS[1], 1, id)
    redis.call("DEL", seen)
    if not redis.call("LPOS", KEYS[2], id) then
      redis.call("LPUSH", KEYS[2], id)
      returned[#returned + 1] = id
    end
  end
end
return returned
