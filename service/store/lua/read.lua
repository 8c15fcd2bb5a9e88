-- One job as it is now, and what its log has after a cursor.
-- KEYS  1-6 keys.lifecycle
-- ARGV  1 job id   2 prefix of queue keys   3 cursor, or "" for no events   4 most events
-- Returns {fields, latest result, position or false, known, last event of the log, first one, events}
if redis.call("EXISTS", KEYS[3]) == 0 then return {{}, {}, false, 0, {}, {}, {}} end
local fields = redis.call("HGETALL", KEYS[1])
local position = false
local state = redis.call("HMGET", KEYS[1], "status", "origin")
-- Nobody who waits further back than this is helped by the exact number, and LPOS is O(n).
if state[1] == "queued" and state[2] then
  position = redis.call("LPOS", ARGV[2] .. state[2], ARGV[1], "MAXLEN", 10000)
end
local first, events = {}, {}
if ARGV[3] ~= "" then
  first = redis.call("XRANGE", KEYS[2], "-", "+", "COUNT", 1)
  events = redis.call("XRANGE", KEYS[2], "(" .. ARGV[3], "+", "COUNT", ARGV[4])
end
return {
  fields,
  redis.call("XREVRANGE", KEYS[4], "+", "-", "COUNT", 1),
  position,
  1,
  redis.call("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1),
  first,
  events,
}
