-- Of many jobs the status, and what their logs said last.
-- KEYS  job hash, events stream of each
-- Returns {status or false, type of the last event or false, start deadline or false} of each, one after the other
local states = {}
for i = 1, #KEYS, 2 do
  local job = redis.call("HMGET", KEYS[i], "status", "start_deadline")
  local last = redis.call("XREVRANGE", KEYS[i + 1], "+", "-", "COUNT", 1)[1]
  states[#states + 1] = job[1]
  states[#states + 1] = last and last[2][2] or false
  states[#states + 1] = job[2]
end
return states
