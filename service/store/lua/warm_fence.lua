-- Give the turns of a warm worker to a new horse: whatever the one before it may still send changes nothing.
-- KEYS  1 turn hash of the worker   2 worker_executions set
-- ARGV  1 id of the new horse   2 seconds for which the turn hash is kept
-- Returns the executions that the worker has left open, as <job id>:<execution id>.
redis.call("DEL", KEYS[1])
redis.call("HSET", KEYS[1], "horse", ARGV[1], "turn", "", "job", "", "queue", 0, "lost", 0)
redis.call("EXPIRE", KEYS[1], ARGV[2])
local left = redis.pcall("SMEMBERS", KEYS[2])
if left.err then redis.call("DEL", KEYS[2]) end  -- somebody has made something else of it
return left.err and {} or left
