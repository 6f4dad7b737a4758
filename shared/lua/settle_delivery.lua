-- A webhook was delivered or given up (`again` is ''), or is due again in so many seconds; unless it
-- is no longer the one that was taken: the job was put back and has ended anew, or the lease was
-- over. A job's log was kept for it: let it go as soon as it would have gone (`log_ttl`), if that is known.
-- Returns 1 or 0.
local due, tries, log = unpack(KEYS)
local job, lease, again, log_ttl = unpack(ARGV)

local score = redis.call('ZSCORE', due, job)
if not score or string.format('%.6f', score) ~= lease then return 0 end
if again ~= '' then
  local time = redis.call('TIME')
  redis.call('ZADD', due, time[1] + time[2] / 1000000 + again, job)
  return 1
end
redis.call('ZREM', due, job)
redis.call('HDEL', tries, job)
if log_ttl ~= '' and redis.call('TTL', log) > tonumber(log_ttl) then
  redis.call('EXPIRE', log, log_ttl)
end
return 1
