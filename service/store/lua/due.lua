-- Queue a scheduled job whose time has come.
-- KEYS  1-6 keys.lifecycle   7 scheduled registry   8 queue list
-- ARGV  1 job id   2 queue name   3 most events kept   4 data of the queued event
-- Returns 1, or 0 if there is nothing to do any more.
local at = call("ZSCORE", KEYS[7], ARGV[1])
if not at or tonumber(at) > NOW then return 0 end
local status = try("HGET", KEYS[1], "status")
if status ~= "scheduled" then
  call("ZREM", KEYS[7], ARGV[1])
  return 0
end
call("HSET", KEYS[1], "status", "queued", "enqueued_at", rq_now())
decided()
write("RPUSH", KEYS[8], ARGV[1])
call("ZREM", KEYS[7], ARGV[1])
emit(KEYS[2], ARGV[3], "queued", ARGV[4])
try("PUBLISH", WAKE, ARGV[2])
return 1
