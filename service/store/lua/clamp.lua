-- Leases that end too far in the future, since Redis's clock was set back, end when they would if they were new.
-- KEYS  1 wip
-- ARGV  1... members
-- Returns how many. A member without a lease of ours is a job of one of RQ's own workers, which count otherwise.
local clamped = 0
for _, member in ipairs(ARGV) do
  local lease = tonumber(try("HGET", RQ .. ":execution:" .. member, "lease") or "")
  local ends = tonumber(redis.call("ZSCORE", KEYS[1], member) or "")
  if lease and ends and ends > NOW + lease + 1 then
    redis.call("ZADD", KEYS[1], NOW + lease, member)
    clamped = clamped + 1
  end
end
return clamped
