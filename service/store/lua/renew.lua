-- Renew the leases of a worker's running executions.
-- KEYS  1 worker_executions set
-- ARGV  1 lease, seconds   2... job id, execution id, queue of each
-- Returns now, unix; then for each: 0 if the execution is no longer the job's, 2 if the job is asked to stop, else 1.
local lease = ARGV[1]
local function renew(id, execution, queue)
  local member, job, wip = id .. ":" .. execution, RQ .. ":job:" .. id, registry("wip", queue)
  if not holds(wip, member, "") then return 0 end
  call("ZADD", wip, NOW + lease, member)
  decided()
  call("HSET", RQ .. ":execution:" .. member, "last_heartbeat", NOW)
  call("EXPIRE", RQ .. ":execution:" .. member, lease * 2)
  try("ZADD", RQ .. ":executions:" .. id, NOW + lease + 60, execution)
  try("EXPIRE", RQ .. ":executions:" .. id, lease + 60)
  call("HSET", job, "last_heartbeat", rq_now())
  return call("HEXISTS", job, "cancel_requested_at") == 1 and 2 or 1
end
local answers = {string.format("%.6f", NOW)}
for i = 2, #ARGV, 3 do
  undecided()
  answers[#answers + 1] = of_one(0, renew, ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
try("EXPIRE", KEYS[1], lease * 4)
return answers
