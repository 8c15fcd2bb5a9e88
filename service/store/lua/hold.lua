-- Take the recovery loop, or keep it.
-- KEYS  1 keys.RECOVERY
-- ARGV  1 worker   2 seconds for which it is this worker's
-- Returns {1 if it is this worker's now, now (unix)}
local holder = try("GET", KEYS[1])
local held = type(holder) ~= "string" or holder == ARGV[1]
if held then redis.call("SET", KEYS[1], ARGV[1], "EX", ARGV[2]) end
return {held and 1 or 0, string.format("%.6f", NOW)}
