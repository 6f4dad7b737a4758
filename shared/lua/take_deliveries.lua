-- Take the webhooks that are due, at most so many, and lease them: who takes one and dies has it
-- due again when the lease is over. Returns {job, tries with this one, lease, ...}.
local due, tries = unpack(KEYS)
local count, lease_seconds = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local taken = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, count)) do
  local lease = string.format('%.6f', now + lease_seconds)
  redis.call('ZADD', due, lease, job)
  taken[#taken + 1] = job
  taken[#taken + 1] = redis.call('HINCRBY', tries, job, 1)
  taken[#taken + 1] = lease
end
return taken
