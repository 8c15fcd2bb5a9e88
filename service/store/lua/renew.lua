-- Renew the leases of a worker's running executions.
-- KEYS  1 worker_executions set
-- ARGV  1 RQ's key prefix   2 now, unix   3 now, RQ's format   4 lease, seconds
--       5... job id, execution id, queue of each
-- Returns for each: 0 if the execution is no longer the job's, 2 if the job is asked to stop, else 1.
local prefix, now, lease, renewed = ARGV[1], ARGV[2], ARGV[4], {}
local function renew(id, execution, queue)
  local member, job = id .. ":" .. execution, prefix .. ":job:" .. id
  if not holds(prefix .. ":wip:" .. queue, member, "") then return 0 end
  redis.call("ZADD", prefix .. ":wip:" .. queue, now + lease, member)
  redis.call("HSET", prefix .. ":execution:" .. member, "last_heartbeat", now)
  redis.call("EXPIRE", prefix .. ":execution:" .. member, lease * 2)
  redis.call("ZADD", prefix .. ":executions:" .. id, now + lease + 60, execution)
  redis.call("EXPIRE", prefix .. ":executions:" .. id, lease + 60)
  redis.call("HSET", job, "last_heartbeat", ARGV[3])
  return redis.call("HEXISTS", job, "cancel_requested_at") == 1 and 2 or 1
end
for i = 5, #ARGV, 3 do renewed[#renewed + 1] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
redis.call("EXPIRE", KEYS[1], lease * 4)
return renewed
