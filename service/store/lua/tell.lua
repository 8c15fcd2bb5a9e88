-- Append the event of a status that somebody set without one: RQ's own tools, a stock RQ worker.
-- KEYS  1-6 keys.lifecycle
-- ARGV  1 the status   2 id of the log's last event as it was read with it   3 most events kept   4 data of the event
-- Returns 1, or 0 if something was told meanwhile, also by another web process that saw the same.
if call("HGET", KEYS[1], "status") ~= ARGV[1] then return 0 end
local last = call("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1)[1]
if (last and last[1] or "0-0") ~= ARGV[2] then return 0 end
change(KEYS, ARGV[3], ARGV[1], ARGV[4])
-- A log that is gone, or that nobody let expire, ends with its job.
local ttl = call("TTL", KEYS[1])
if ttl > 0 and call("TTL", KEYS[2]) < 0 then call("EXPIRE", KEYS[2], ttl) end
return 1
