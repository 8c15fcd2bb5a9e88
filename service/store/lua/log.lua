-- What a job's log has after a cursor, within a bound on its bytes, and the job without its payload and its result.
-- KEYS  1-6 keys.lifecycle
-- ARGV  1 cursor   2 most events   3 most bytes; one event is given whatever its size
-- Returns as read.lua: {fields, {}, false, known, last event of the log, first one, events}; the field "data" is empty
if redis.call("EXISTS", KEYS[3]) == 0 then return {{}, {}, false, 0, {}, {}, {}} end
local fields = redis.call("HGETALL", KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] == "data" then fields[i + 1] = "" end
end
local events, after, count, room = {}, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
while #events < count and room > 0 do
  local entries = redis.call("XRANGE", KEYS[2], "(" .. after, "+", "COUNT", math.min(16, count - #events))
  for _, entry in ipairs(entries) do
    for _, text in ipairs(entry[2]) do room = room - #text end
    if room < 0 and #events > 0 then break end
    events[#events + 1] = entry
    after = entry[1]
  end
  if #entries < 16 then break end
end
return {
  fields,
  {},
  false,
  1,
  redis.call("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1),
  redis.call("XRANGE", KEYS[2], "-", "+", "COUNT", 1),
  events,
}
