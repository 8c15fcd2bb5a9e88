-- Do what every script of ours does, to see whether Redis lets it: write, and publish.
-- KEYS  1 keys.PROBE
-- ARGV  1 seconds to keep it
redis.call("PUBLISH", CHANNELS .. ":probe", "")
redis.call("SET", KEYS[1], "", "EX", ARGV[1])
